"""Preferences whose prompt and answers are lists of messages, brought to one form.

::

    prompt, chosen, rejected     three lists: the turns so far, and one turn of the assistant each
    chosen, rejected             two whole conversations; the turns that they share are the prompt
    prompt (a text), and either  the text is the question, or stands among the shared turns
    prompt, answer               to be told its reward: as a pair with one side

What a row has then, under each role, is JSON text behind a record separator (RFC 7464), which no text begins with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bigbatch.data.columns import guess_column
from bigbatch.errors import DataError, Problem
from bigbatch.files.plain import is_missing, plain
from bigbatch.files.problems import data_error, one_error
from bigbatch.files.raw import Column, Raw
from bigbatch.protocols import Role
from bigbatch.turns import PARTS, conversation_of, without_nulls

PROMPT, SIDES = "prompt", ("chosen", "rejected", "answer")
_MARK = "\x1e"
_BESIDE = ("tools", "system")
Message = Mapping[str, object]


def is_talk(value: object) -> bool:
    """Whether the value of a role is a list of messages, in the one form."""
    return isinstance(value, str) and value.startswith(_MARK)


def talk_of(value: str) -> dict[str, list[Message]]:
    """`messages`, and `tools` if there are some, of a value in the one form.

    Raises:
        DataError: a text of somebody's own that begins so.
    """
    try:
        found = json.loads(value[len(_MARK) :])
        return {"messages": found["messages"], **({"tools": found["tools"]} if "tools" in found else {})}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DataError(
            "the text begins with a record separator (U+001E), behind which messages stand here; remove it"
        ) from None


def holds_talks(values: Sequence[object]) -> bool:
    """Whether a column holds lists of messages, told by the first value that is there."""
    first = next((value for value in map(plain, values) if not _is_blank(value)), None)
    return _is_messages(first)


def _is_blank(value: object) -> bool:
    return is_missing(value) or value in ("", [])


def _is_messages(value: object) -> bool:
    value = plain(value)
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    if isinstance(value, Mapping):  # how older `datasets` keep a list of objects
        return all(isinstance(plain(value.get(key)), (list, tuple)) for key in ("role", "content"))
    first = plain(next(iter(value), None)) if isinstance(value, (list, tuple)) else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


# ---------------------------------------------------------------- tables and rows


def with_talks(
    raw: Raw, wanted: Mapping[str, str], roles: Mapping[str, Role]
) -> tuple[Raw, Mapping[str, str]]:
    """A source whose prompts and answers are talks in the one form, under their roles; as it is where they are not.

    Args:
        raw: a source.
        wanted: role -> column.
        roles: what the task reads.
    """
    picked = _picked(raw.columns, wanted, roles)
    if not any(role in picked for role in SIDES):
        return raw, wanted
    loaded = {role: _values(raw.load([column])[column]) for role, column in picked.items()}
    if not any(holds_talks(loaded[role]) for role in (PROMPT, *SIDES) if role in loaded):
        return raw, wanted
    given = [role for role in (PROMPT, *SIDES) if role == PROMPT or role in picked]

    def load(names: Sequence[str]) -> Mapping[str, Column]:
        others = [name for name in names if name not in given]
        found: dict[str, Column] = dict(raw.load(others))
        if len(others) < len(names):
            found |= {role: column for role, column in told().items() if role in names}
        return found

    def told() -> dict[str, list[str | None]]:
        columns: dict[str, list[str | None]] = {role: [] for role in given}
        problems = []
        for row in range(raw.rows):
            try:
                one = _compared({role: values[row] for role, values in loaded.items()})
            except ValueError as error:
                problems.append(Problem(where=raw.where(row), key=picked[SIDES[0]], what=str(error)))
                continue
            for role in given:
                columns[role].append(one.get(role))
        if problems:
            raise data_error(problems)
        return columns

    def lacks(name: str) -> Sequence[int]:
        return raw.lacks(picked.get(name, picked[given[1]]) if name in given else name)

    others = tuple(name for name in raw.columns if name not in given)
    rest = {role: column for role, column in wanted.items() if role not in given}
    found = replace(raw, columns=(*others, *given), load=load, lacks=lacks)
    return found, {**rest, **{role: role for role in given}}


def talk_row(
    row: Mapping[str, object], wanted: Mapping[str, str], roles: Mapping[str, Role], place: str
) -> dict[str, object]:
    """One row to predict with its talks under their roles; as it is where it has none.

    Args:
        row: column -> value.
        wanted: role -> column.
        roles: what the task reads.
        place: of the row, for messages.

    Raises:
        DataError: messages that are none, or no pair.
    """
    picked = _picked(list(row), wanted, roles)
    values = {role: without_nulls(plain(row[column])) for role, column in picked.items()}
    if not any(_is_messages(values.get(role)) for role in (PROMPT, *SIDES)):
        return dict(row)
    taken = {picked.get(role) for role in (PROMPT, *SIDES)}
    try:
        return {**{name: value for name, value in row.items() if name not in taken}, **_compared(values)}
    except ValueError as error:
        raise one_error(place, "", str(error)) from None


def _picked(available: Sequence[str], wanted: Mapping[str, str], roles: Mapping[str, Role]) -> dict[str, str]:
    """Role or part -> column, of tasks that read talks; empty for others."""
    found: dict[str, str] = {}
    if not any(about.may_be_messages for about in roles.values()):
        return found
    for role in (*(each for each in SIDES if each in roles), PROMPT, *_BESIDE):
        names = (role, *PARTS[role]) if role in _BESIDE else ()
        guessed = [name for name in available if name.strip().lower() in names] or (
            [] if role in _BESIDE else guess_column(role, "text", available, list(found.values()))
        )
        column = wanted.get(role, next(iter(guessed), None))
        if column is not None and column in available:
            found[role] = column
    return found


def _values(column: Column) -> Sequence[object]:
    return column if isinstance(column, list) else [without_nulls(value) for value in column.to_pylist()]


def as_texts(raw: Raw, wanted: Mapping[str, str]) -> Raw:
    """A source in which talks of preferences are plain texts, under the names that their columns have; as it is where
    there are none. A prompt that only the answers know is the column `prompt`.

    Args:
        raw: a source.
        wanted: role -> column.
    """
    roles = {role: Role(meaning="", may_be_messages=True) for role in (PROMPT, *SIDES[:2])}
    told, _ = with_talks(raw, wanted, roles)
    if told is raw:
        return raw
    names = {column: role for role, column in _picked(raw.columns, wanted, roles).items() if role in roles}
    names |= {} if PROMPT in names.values() else {PROMPT: PROMPT}

    def load(asked: Sequence[str]) -> Mapping[str, Column]:
        found = dict(raw.load([name for name in asked if name not in names]))
        own = told.load([names[name] for name in asked if name in names])
        return {**found, **{name: list(map(_text, own[names[name]])) for name in asked if name in names}}

    return replace(raw, columns=tuple(dict.fromkeys((*raw.columns, *names))), load=load)


def _text(talk: str | None) -> str | None:
    """All that is said in it."""
    return None if talk is None else "\n".join(str(each["content"]) for each in talk_of(talk)["messages"])


# ---------------------------------------------------------------- one row


def _compared(values: Mapping[str, object]) -> dict[str, str | None]:
    """Role -> talk in the one form: the turns so far, and one turn of each answer.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    given = {role: value for role in SIDES if not _is_blank(value := plain(values.get(role)))}
    asked = plain(values.get(PROMPT))
    turns = {role: _turns(role, value) for role, value in given.items()}
    before = _before(asked, turns)
    absent = [role for role in SIDES if role in values and role not in given]
    told = {role: _told(_answer(role, own, before)) for role, own in turns.items()}
    beside = {part: values[part] for part in _BESIDE if values.get(part) is not None}
    shown = [{key: item for key, item in each.items() if key != "weight"} for each in before]
    written = conversation_of({"messages": shown, **beside}) if before else None
    return {PROMPT: None if written is None else _MARK + written, **told, **dict.fromkeys(absent)}


def _told(answer: Message) -> str:
    written = conversation_of([{key: item for key, item in answer.items() if key != "weight"}])
    assert written is not None, "an answer is one message"
    return _MARK + written


def _turns(role: str, value: object) -> list[Message]:
    """The messages of an answer, or of a conversation that ends with it; a text is what the assistant says."""
    if isinstance(value, str) and not _is_messages(value):
        return [{"role": "assistant", "content": value}]
    try:
        written = conversation_of({"messages": value})
    except ValueError as error:
        raise ValueError(f"{role}: {error}") from None
    return [] if written is None else json.loads(written)["messages"]


def _before(asked: object, turns: Mapping[str, list[Message]]) -> list[Message]:
    """The turns that are answered."""
    if _is_messages(asked):
        return _turns(PROMPT, asked)
    shared = list(_shared(list(turns.values())))
    text = asked if isinstance(asked, str) else ""
    if not text.strip():
        return shared
    if not shared:
        return [{"role": "user", "content": text}]
    if not any(str(each["content"]).strip() == text.strip() for each in shared):
        raise ValueError(
            f"the prompt {text[:40]!r} is none of the turns that the answers share; leave the column out "
            "(data.columns: {prompt: …} names another), or give the answers without the turns before them"
        )
    return shared


def _shared(sides: Sequence[list[Message]]) -> Iterator[Message]:
    """The turns that all sides begin with; each has at least one behind them."""
    for turns in zip(*(own[:-1] for own in sides), strict=False):
        if any(turn != turns[0] for turn in turns):
            return
        yield turns[0]


def _answer(role: str, turns: list[Message], before: list[Message]) -> Message:
    """The one turn behind the prompt.

    Raises:
        ValueError: there are none, several, or it is not the assistant's.
    """
    own = turns[len(before) :] if turns[: len(before)] == before else turns
    if len(own) == 1 and own[0]["role"] == "assistant":
        return own[0]
    if not own:
        raise ValueError(
            f"{role}: there is nothing behind the turns of the prompt; expected a turn of the assistant"
        )
    said = ", ".join(str(each["role"]) for each in own[:4])
    raise ValueError(
        f"{role}: found {len(own)} turns behind those that are shared ({said}); expected one, of the assistant: the "
        "turns before the first answer that differs are the prompt, and what follows that answer is left out"
    )

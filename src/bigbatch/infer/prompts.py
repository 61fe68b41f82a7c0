"""What a model is to write from: prompts to continue, conversations, sources; of files and objects, with their places.

A causal model continues a `prompt`, or answers `messages` (`[{role, content}, …]`) in the words of the tokenizer's chat
template; an encoder-decoder writes from a `source`. Whatever cannot be written from is refused before anything is
written, with its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from bigbatch.data.objects import is_table, read_object
from bigbatch.data.token_rows import check_row
from bigbatch.errors import DataError, Problem, UsageError
from bigbatch.files.kinds import find_files, read_content, read_file
from bigbatch.files.problems import data_error, one_error
from bigbatch.files.problems import placed as at_its_place
from bigbatch.files.raw import Raw
from bigbatch.infer.load import Loaded
from bigbatch.infer.unlabelled import KEPT, PlacedRow, placed, rows_of_object
from bigbatch.model.heads import HEADS
from bigbatch.protocols import Json, Role, Row, Tokenizer
from bigbatch.samples import Sample
from bigbatch.tasks.base import Task
from bigbatch.tasks.chat import Chat
from bigbatch.tasks.inputs import NoTokens, tokenised_inputs
from bigbatch.tasks.seq2seq import SOURCE, Seq2Seq
from bigbatch.tasks.vocabulary import frame_of

PROMPT, MESSAGES = "prompt", "messages"
_ROLES = {PROMPT: Role(meaning="what is continued", required=False)}
_SHOWN = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """One text to write."""

    number: int
    """Of the row, from 0: what is drawn is a function of it."""
    place: str
    """`prompts.jsonl:12`."""
    sample: Sample
    """What the model is given: `ids` to continue; of an encoder-decoder the stream of the source."""
    told: Mapping[str, Json]
    """What the record begins with: `id`, what it was written from, columns that were kept."""

    @property
    def tokens(self) -> int:
        """Of what the model is given."""
        return (
            len(self.sample.streams[SOURCE]["ids"]) if SOURCE in self.sample.streams else len(self.sample.ids)
        )


def why_it_writes_nothing(task: Task) -> str:
    """Why a model of this task cannot write texts, in words; empty where it can."""
    if task.head.kind in ("causal", "seq2seq"):
        return ""
    what = HEADS[task.head.kind].title.lower()
    return f"this model ({what}) writes no text; generate takes causal language models and encoder-decoders"


# ---------------------------------------------------------------- rows


def rows_of_prompts(
    given: object, opened: Loaded, *, columns: Mapping[str, str] = {}, keep: Sequence[str] = ()
) -> list[PlacedRow]:
    """Rows with `prompt`, `messages` or what the task reads.

    Args:
        given: a path; a text, a conversation, a row, several of them; or a table.
        opened: the model.
        columns: role -> column, beside the model's own.
        keep: columns that are copied.

    Raises:
        UsageError: nothing that prompts can be read from.
        DataError: no such file or column, malformed rows.
    """
    if isinstance(given, Path):
        ways = (opened.encoding, opened.quoting)
        raws = (read_file(name, path, *ways, learnt=False) for name, path in find_files(str(given), Path()))
        return [row for raw in raws for row in _of_raw(raw, opened, columns, keep)]
    if isinstance(given, bytes):
        suffix = ".jsonl" if given.lstrip()[:1] == b"{" else ".txt"
        raw = read_content("stdin", given, suffix, opened.encoding, opened.quoting, learnt=False)
        return list(_of_raw(raw, opened, columns, keep))
    if is_table(given):
        return list(_of_raw(read_object(given, []), opened, columns, keep))
    wanted = {**opened.columns, **columns}
    if isinstance(opened.task, Seq2Seq):
        return list(rows_of_object(given, roles=_sources(opened.task), columns=wanted))
    return [_of_item(item, f"row {number}", wanted) for number, item in enumerate(_items(given), start=1)]


def _sources(task: Task) -> dict[str, Role]:
    """What a task reads, and does not write."""
    return {name: role for name, role in task.roles.items() if not role.absent_when_predicting}


def _of_raw(raw: Raw, opened: Loaded, columns: Mapping[str, str], keep: Sequence[str]) -> Iterator[PlacedRow]:
    # As in training, where there are such columns.
    usual = {role: column for role, column in opened.columns.items() if column in raw.columns}
    task, columns = opened.task, {**usual, **columns}
    if isinstance(task, Seq2Seq):
        roles = _sources(task)
        wanted = {role: column for role, column in columns.items() if role in (*roles, "id")}
        return placed(raw, roles, wanted, keep)
    talk = columns.get(MESSAGES, MESSAGES)
    here = talk in raw.columns
    own = {PROMPT: _column_of_prompts(raw, columns)} if not raw.nameless else {}
    wanted = {role: column for role, column in own.items() if column}
    if not (here or wanted or raw.nameless or "input_ids" in raw.columns) and raw.columns:
        there = ", ".join(raw.columns[:8])
        raise one_error(raw.name, PROMPT, f"no column {PROMPT} or {MESSAGES}; there are: {there}")
    rows = placed(raw, _ROLES, wanted, [*keep, *([talk] if here and talk not in keep else [])])
    return (_with_messages(place, row, talk if here else None, talk in keep) for place, row in rows)


def _column_of_prompts(raw: Raw, columns: Mapping[str, str]) -> str | None:
    """The column that is continued: as named, or by its usual names."""
    if PROMPT in columns:
        return columns[PROMPT]
    usual = (PROMPT, columns.get("text", "text"), "text", "instruction", "question")
    return next((name for name in usual if name in raw.columns), None)


def _with_messages(place: str, row: Row, talk: str | None, kept: bool) -> PlacedRow:
    """A row with its conversation beside its prompt instead of among what is kept."""
    if talk is None:
        return place, row
    own = dict(row.get(KEPT, {}))
    messages = own[talk] if kept else own.pop(talk)
    return place, {**row, KEPT: own, MESSAGES: messages}


def _items(given: object) -> Iterable[object]:
    """The prompts of an object."""
    if isinstance(given, str) or hasattr(given, "keys") or _is_conversation(given):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, (bytes, set, frozenset)):
        expected = "a text, a conversation, rows with prompt or messages, several of them, or a table"
        raise UsageError(f"found {type(given).__name__}; expected {expected}")
    return given


def _is_conversation(given: object) -> TypeGuard[Sequence[Row]]:
    return (
        isinstance(given, (list, tuple))
        and bool(given)
        and all(isinstance(turn, Mapping) and {"role", "content"} <= {*turn} for turn in given)
    )


def _of_item(item: object, place: str, columns: Mapping[str, str]) -> PlacedRow:
    if isinstance(item, str):
        return place, {PROMPT: item}
    if _is_conversation(item):
        return place, {MESSAGES: item}
    if not isinstance(item, Mapping):
        raise one_error(place, "", f"found {type(item).__name__}; expected a text, messages, or a row")
    names = {role: columns.get(role, role) for role in (PROMPT, MESSAGES, "id")}
    found = {role: item[name] for role, name in names.items() if item.get(name) is not None}
    if "input_ids" in item:
        found["input_ids"] = item["input_ids"]
    if not found.keys() - {"id"}:
        raise one_error(place, PROMPT, f"found {', '.join(map(str, item))}; expected {PROMPT} or {MESSAGES}")
    return place, found


# ---------------------------------------------------------------- rows to what the model is given


def prompts_of(rows: Sequence[PlacedRow], opened: Loaded, *, chat: bool = False) -> list[Prompt]:
    """Each row as the model is given it.

    Args:
        rows: with their places.
        opened: the model.
        chat: a prompt is what a user says: it goes through the chat template, too; of task chat it always does.

    Raises:
        DataError: rows that cannot be written from, with their places.
        UsageError: messages, and no chat template.
    """
    task, tokenizer = opened.task, opened.tokenizer
    chat = chat or isinstance(task, Chat)
    found: list[Prompt] = []
    problems: list[Problem] = []
    before = frame_of(tokenizer) if hasattr(tokenizer, "num_special_tokens_to_add") else ((), ())
    for number, (place, row) in enumerate(rows):
        wrong = check_row(row, place) if row.get("input_ids") is not None else []
        if wrong:
            problems += wrong
            continue
        try:
            if isinstance(task, Seq2Seq):
                sample, what = _source(row, task), {SOURCE: row.get(SOURCE)}
            else:
                ids, what = _continued(row, tokenizer, before, chat)
                sample = ids_alone(ids)
        except DataError as error:
            problems += at_its_place(error, place)
            continue
        told = {name: row["id"] for name in ("id",) if row.get("id") is not None}
        kept = {
            f"{KEPT}.{name}" if name in _WRITTEN else name: each for name, each in row.get(KEPT, {}).items()
        }
        shown = {name: each for name, each in what.items() if each is not None}
        found.append(Prompt(number=number, place=place, sample=sample, told={**told, **kept, **shown}))
    problems += [
        Problem(where=prompt.place, what=why) for prompt in found if (why := _too_long(prompt, opened))
    ]
    if problems:
        raise data_error(problems)
    return found


_WRITTEN = ("text", "end", "tokens", PROMPT, MESSAGES, SOURCE)
"""What a record says itself."""


def _source(row: Row, task: Seq2Seq) -> Sample:
    try:
        return task.encode_batch([row], task.facts.tokenizer, labelled=False)[0]
    except NoTokens:
        raise DataError("a source without any token: there is nothing to write from") from None


def _continued(
    row: Row, tokenizer: Tokenizer | None, frame: tuple[tuple[int, ...], tuple[int, ...]], chat: bool
) -> tuple[list[int], dict[str, Json]]:
    """Token ids to continue, and what they stand for."""
    if row.get("input_ids") is not None:
        given = tokenised_inputs(row).ids.tolist()
        return given, {"input_ids": given}
    messages, prompt = row.get(MESSAGES), row.get(PROMPT)
    if tokenizer is None:
        raise DataError("this model has no tokenizer: it continues rows of token ids (input_ids)")
    if messages is None and prompt is None:
        raise DataError(f"neither {PROMPT} nor {MESSAGES}")
    if messages is not None or chat:
        said = [{"role": "user", "content": prompt}] if messages is None else messages
        return _answered(said, tokenizer), {MESSAGES: messages} if messages is not None else {PROMPT: prompt}
    ids = [int(each) for each in tokenizer(prompt, verbose=False)["input_ids"]]
    behind = [*frame[1]]
    # What ends a text is not what a text goes on behind.
    if behind and ids[-len(behind) :] == behind:
        ids = ids[: -len(behind)]
    start = getattr(tokenizer, "bos_token_id", None)
    if not ids and start is not None:
        ids = [int(start)]
    if not ids:
        raise DataError("an empty prompt, and the tokenizer has no mark that a text starts with")
    return ids, {PROMPT: prompt}


def _answered(messages: object, tokenizer: Tokenizer) -> list[int]:
    """A conversation as the model's chat template has it, up to where the answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "the tokenizer has no chat template, which says how messages are read; give prompts instead, each the text "
            "that is continued"
        )
    if not _is_conversation(messages) or not all(
        isinstance(turn["role"], str) and isinstance(turn["content"], str) for turn in messages
    ):
        shown = repr(messages)[:_SHOWN]
        raise DataError(f"{MESSAGES}: found {shown}; expected [{{role: user, content: a text}}, …]")
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    try:
        found = getattr(tokenizer, "apply_chat_template")(  # noqa: B009 (of transformers, not of the protocol)
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # the template's own refusals, of roles that do not take turns, say
        raise DataError(f"{MESSAGES}: the chat template refuses them: {error}") from error
    return [int(each) for each in found]


def ids_alone(ids: Sequence[int]) -> Sample:
    """Token ids of which nothing is learnt."""
    nothing = np.empty(0, np.int32)
    return Sample(
        ids=np.asarray(ids, np.int32), reads=nothing, values=nothing.astype(np.int64),
        weights=nothing.astype(np.float32),
    )  # fmt: skip


def _too_long(prompt: Prompt, opened: Loaded) -> str:
    """Why the model has no room for it, in words; empty where it has."""
    positions, known = opened.positions, opened.task.facts.vocabulary
    ids = prompt.sample.ids if SOURCE not in prompt.sample.streams else prompt.sample.streams[SOURCE]["ids"]
    if known is not None and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < known.rows:
        wrong = int(ids.max()) if int(ids.max()) >= known.rows else int(ids.min())
        return f"token id {wrong}, but the model's embedding has {known.rows} rows"
    if positions is None or isinstance(opened.task, Seq2Seq) or prompt.tokens < positions:
        return ""
    if opened.task.facts.memory:  # which moves on: `remembering`
        return ""
    return (
        f"{prompt.tokens} tokens, and the model has positions for {positions}, those of what it writes included: "
        "shorten the prompt"
    )

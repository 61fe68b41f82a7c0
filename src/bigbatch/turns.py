"""Conversations in the forms that people keep them in, brought to one.

::

    messages                              [{role, content, …}, …], or such a list as JSON text
    conversations                         [{from, value}, …] (ShareGPT): human, gpt, system, observation, …
    prompt, completion                    two texts, or two lists of messages
    instruction, input, output            three texts (Alpaca); `input` may be empty or absent
    beside each of them                   tools (a list of descriptions, or JSON text), system (a text)

The one form is JSON text, `{"messages": [{"role", "content", …}], "tools": […]}`: roles in lower case and by the names
that chat templates know, contents as texts, arguments of tool calls as objects. What a message has beside that stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

KIND = "messages"
"""Kind of the role, and its usual name."""
FORMS: tuple[tuple[str, ...], ...] = (
    ("messages",), ("prompt", "completion"), ("instruction", "output"),
)  # fmt: skip
"""Parts of a row that a conversation is made of; one of these forms, the first that there is."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat"),
    "prompt": ("prompt",),
    "completion": ("completion", "response"),
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output", "response"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
}
"""Part -> what its column is usually called."""
_BESIDE = ("system", "tools", "input")
_ROLES = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_call": "assistant", "observation": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
"""What others call a role -> as chat templates know it."""
_MOST_DEPTH = 50


def parts_of(available: Sequence[str], wanted: Mapping[str, str] = {}) -> dict[str, str]:
    """Part of a conversation -> column, of the form that a source has; empty where it has none.

    Args:
        available: the columns of the source.
        wanted: `data.columns`, of which parts that it names go first.

    Example:
        >>> parts_of(["id", "Instruction", "input", "output"])
        {'instruction': 'Instruction', 'output': 'output', 'input': 'input'}
        >>> parts_of(["ask", "completion"], {"prompt": "ask"})
        {'prompt': 'ask', 'completion': 'completion'}
    """
    by_name = {name.strip().lower(): name for name in reversed(available)}

    def column(part: str) -> str | None:
        if part in wanted:
            return wanted[part]
        return next((by_name[name] for name in PARTS[part] if name in by_name), None)

    named = [form for form in FORMS if set(form) & set(wanted)]
    for form in named or FORMS:
        found = {part: column(part) for part in form}
        if all(found.values()):
            # `input` is a part of instructions alone; of prompts and messages it is something else.
            beside = _BESIDE if form[0] == "instruction" else _BESIDE[:2]
            found |= {part: column(part) for part in beside}
            return {part: name for part, name in found.items() if name is not None}
    return {}


def gathered(columns: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """The parts of each row.

    Args:
        columns: part -> a value a row.
    """
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def conversation_row(row: Mapping[str, object], wanted: Mapping[str, str], role: str) -> dict[str, object]:
    """One row with its conversation under the role's name; as it is where it has none.

    Args:
        row: column -> value.
        wanted: role or part -> column.
        role: of the task.
    """
    parts = parts_of(list(row), wanted)
    if not parts or any(name not in row for name in parts.values()):
        return dict(row)
    return {**row, role: {part: row[name] for part, name in parts.items()}}


def holds_conversations(columns: Mapping[str, object]) -> bool:
    """Whether a row is a conversation: a list of messages, or a prompt and what completes it.

    Args:
        columns: column -> the value of some row.
    """
    parts = parts_of(list(columns))
    if {"chosen", "rejected"} <= columns.keys():  # a preference, whatever stands beside it
        return False
    if "messages" not in parts:
        return bool(parts) and "chosen" not in columns
    value = _plain(columns[parts["messages"]])
    if isinstance(value, (list, tuple)):
        first = next(iter(value), None)
        return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())
    return isinstance(value, str) and value.lstrip().startswith("[{")


def are_columns(row: Mapping[str, object], wanted: Mapping[str, str]) -> bool:
    """Whether a dictionary holds conversations column by column: where a row has one, a list of them.

    Args:
        row: column -> value.
        wanted: role or part -> column.
    """
    name = next(iter([*parts_of(list(row), wanted).values(), *row]))
    first = _plain(row[name])
    return isinstance(first, (list, tuple)) and not isinstance(next(iter(first), None), Mapping)


def without_nulls(value: object) -> object:
    """Rows of Arrow have a null wherever another row has a key of its own: they are left out again."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def conversations(values: Iterable[object]) -> tuple[list[str | None], list[tuple[int, str]]]:
    """Each row's conversation as JSON text, missing and empty ones as None; and (row, what is wrong with it)."""
    found: list[str | None] = []
    faults: list[tuple[int, str]] = []
    for row, value in enumerate(values):
        try:
            found.append(conversation_of(value))
        except ValueError as error:
            found.append(None)
            faults.append((row, str(error)))
    return found, faults


# ---------------------------------------------------------------- one row


def conversation_of(value: object) -> str | None:
    """One conversation as JSON text; None where there is no turn.

    Args:
        value: a list of messages, or `{part: value}`.

    Raises:
        ValueError: it is none, with the turn that is wrong.

    Example:
        >>> conversation_of([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}])
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
    """
    parts = value if isinstance(value, Mapping) and not _is_columns(value) else {"messages": value}
    try:
        _refuse_depth(parts)
        messages = _messages_of(parts)
        if not messages:
            return None
        system = parts.get("system")
        if not _is_blank(system) and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": _text(system, "system")}, *messages]
        tools = _tools(parts.get("tools"))
        found = json.dumps(
            {"messages": messages, **({"tools": tools} if tools else {})}, ensure_ascii=False, allow_nan=False
        )
        found.encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair in a text: this is not text") from None
    except TypeError as error:  # a value that JSON has not: bytes, a date
        raise ValueError(f"expected what JSON can hold: {error}") from None
    return found


def told_texts(parts: Mapping[str, Sequence[object]]) -> tuple[list[str], list[str]]:
    """All that is said in each conversation; and a sentence about rows that are none.

    Args:
        parts: part -> a value a row.
    """
    told, faults = conversations(gathered(parts))
    texts = [
        "\n".join(str(message.get("content", "")) for message in json.loads(each)["messages"])
        for each in told
        if each is not None
    ]
    wrong = [f"{len(faults):,} of {len(told):,} rows looked at are none: {faults[0][1]}"] if faults else []
    return texts, wrong


def _is_columns(value: Mapping[object, object]) -> bool:
    """`{"role": […], "content": […]}`: how older `datasets` keep a list of objects."""
    return {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()


def _refuse_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MOST_DEPTH:
            raise ValueError(f"nested more than {_MOST_DEPTH} deep")
        level = [
            item
            for each in level
            if isinstance(each, (Mapping, list, tuple))
            for item in (each.values() if isinstance(each, Mapping) else each)
        ]


def _messages_of(parts: Mapping[str, object]) -> list[dict[str, object]]:
    if "messages" in parts:
        return _messages(parts["messages"])
    if "instruction" in parts:
        asked = [
            _text(parts[part], part) for part in ("instruction", "input") if not _is_blank(parts.get(part))
        ]
        return _exchange("\n\n".join(asked), parts["output"])
    return _exchange(parts["prompt"], parts.get("completion"))


def _exchange(asked: object, answered: object) -> list[dict[str, object]]:
    """What is asked, as it is given; and the answer, of which alone there is something to learn."""
    prompt = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    answer = [{"role": "assistant", "content": answered}] if isinstance(answered, str) else answered
    if _is_blank(asked) and not isinstance(asked, list):
        return []
    before = [{**each, "weight": 0} if each["role"] == "assistant" else each for each in _messages(prompt)]
    return [*before, *([] if answer is None else _messages(answer))]


def _messages(value: object) -> list[dict[str, object]]:
    value = _plain(value)
    if _is_blank(value):
        return []
    if isinstance(value, (str, bytes)):
        value = _parsed(value, "a conversation")
    if isinstance(value, Mapping) and _is_columns(value):
        columns = {
            str(key): list(rows)
            for key, items in value.items()
            if isinstance(rows := _plain(items), (list, tuple))
        }
        if len(columns) < len(value):
            raise ValueError("found one message; expected a list of them")
        value = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of messages, found {type(value).__name__}")
    return [_message(entry, f"turn {number}") for number, entry in enumerate(value, start=1)]


def _message(entry: object, place: str) -> dict[str, object]:
    entry = _plain(entry)
    if not isinstance(entry, Mapping):
        raise ValueError(f"{place}: expected an object with role and content, found {type(entry).__name__}")
    role = entry.get("role", entry.get("from"))
    if not isinstance(role, str) or not role.strip():
        raise ValueError(f"{place}: no role; expected user, assistant, system or tool")
    role = role.strip().lower()
    calls = _calls(entry.get("tool_calls"), place)
    content = entry.get("content", entry.get("value"))
    if content is None and not calls and entry.get("function_call") is None:
        raise ValueError(f"{place}: {role} says nothing; expected content, a text")
    found: dict[str, object] = {
        "role": _ROLES.get(role, role),
        "content": "" if content is None else _text(content, place),
    }
    if calls:
        found["tool_calls"] = calls
    if not _is_blank(entry.get("weight")):
        found["weight"] = _weight(entry["weight"], place)
    taken = {"role", "from", "content", "value", "tool_calls", "weight"}
    return found | {
        str(key): _plain(item) for key, item in entry.items() if key not in taken and item is not None
    }


def _weight(value: object, place: str) -> float:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{place}: weight: found {value!r}; expected a number from 0 (not learnt) to 1")
    return value


def _text(value: object, place: str) -> str:
    """A text, or the texts of a list of parts."""
    value = _plain(value)
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{place}: expected text, found {type(value).__name__}")
    texts = []
    for part in map(_plain, value):
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type", "no text") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"{place}: found a part of content that is {kind}; only texts are read")
        texts.append(text)
    return "".join(texts)


def _calls(value: object, place: str) -> list[object]:
    """Tool calls, their arguments as objects: templates write those as JSON themselves."""
    value = _plain(value)
    if _is_blank(value):
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(call, Mapping) for call in value):
        raise ValueError(f"{place}: tool_calls: expected a list of objects")
    return [_call(dict(call)) for call in value]


def _call(call: dict[str, object]) -> dict[str, object]:
    inner = call.get("function")
    if isinstance(inner, Mapping):
        return {**call, "function": _call(dict(inner))}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
        return {**call, "arguments": parsed} if isinstance(parsed, dict) else call
    return call


def _tools(value: object) -> list[object]:
    value = _plain(value)
    if isinstance(value, (str, bytes)) and not _is_blank(value):
        value = _parsed(value, "tools")
    if _is_blank(value):
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in value):
        raise ValueError("tools: expected a list of objects, each the description of a tool")
    return [dict(tool) for tool in value]


def _parsed(text: str | bytes, what: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        shown = text[:40] if isinstance(text, str) else text[:40].decode("utf-8", "replace")
        raise ValueError(f"{what} as text has to be JSON; found {shown!r}") from None


def _is_blank(value: object) -> bool:
    if isinstance(value, (str, bytes)):
        return not value.strip()
    return (isinstance(value, (list, tuple)) and not value) or _is_missing(value)


def _plain(value: object) -> object:
    """Arrays and numbers of numpy as Python's."""
    tolist: Callable[[], object] | None = getattr(value, "tolist", None)
    return value if tolist is None else tolist()


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))

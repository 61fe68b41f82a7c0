"""What the schema refused, in the user's words: where, which key, what was found, what was expected."""

from __future__ import annotations

from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bigbatch.errors import Problem
from bigbatch.recipe.foreign import hint_for
from bigbatch.recipe.keys import all_keys, siblings
from bigbatch.recipe.layers import Key, Layer, dotted
from bigbatch.recipe.tasks import TASK_OPTIONS
from bigbatch.recipe.values import kind_of, show

MOST_PROBLEMS = 100
"""That are told of one recipe: looking for the nearest name of each takes a moment."""
_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def problems_of(error: ValidationError, layer: Layer) -> list[Problem]:
    """The problems behind a failed validation of `layer`, each where it was written."""
    found: list[Problem] = []
    items = error.errors(include_url=False)
    for item in items[:MOST_PROBLEMS]:
        path = _path(item["loc"], layer.values)
        written = layer.written.get(path, path)
        what = unknown_key(path, written) if item["type"] == "extra_forbidden" else _what(item, path)
        found.append(Problem(where=layer.place(path), key=layer.key(path), what=what))
    if len(items) > len(found):
        found.append(
            Problem(where=layer.where, what=f"and {len(items) - len(found):,} more problems of this kind")
        )
    return found


def _path(location: tuple[str | int, ...], values: object) -> Key:
    """The location without the tags that pydantic adds for unions."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        if isinstance(part, int) and isinstance(values, (list, tuple)) and part < len(values):
            values = values[part]
        elif isinstance(values, dict) and (part in values or index == len(location) - 1):
            values = values.get(part)
        elif path == ["task"] and part == "args":
            continue
        else:
            continue
        path.append(part)
    return tuple(path)


def _what(item: ErrorDetails, path: Key) -> str:
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    found = f"found {show(value)} ({kind_of(value)})"
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "model_attributes_type"):
        return f"{found}; expected a mapping of {', '.join(siblings(_pattern(path))) or 'keys'}"
    if kind == "literal_error":
        return _not_one_of(value, context["expected"])
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"found {show(value)}; expected {words} {context[name]:g}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("too_short", "too_long"):
        return f"found {show(value)}; expected {context.get('min_length', context.get('max_length'))} numbers"
    if kind == "string_too_short":
        return "found empty text"
    if kind not in _EXPECTED:
        return f"{found}; {item['msg'][0].lower()}{item['msg'][1:]}"
    quotes = "; put it in quotes" if kind == "string_type" and isinstance(value, (int, float)) else ""
    return f"{found}; expected {_EXPECTED[kind]}{quotes}"


def _not_one_of(value: object, expected: str) -> str:
    names = [name.strip("'") for name in expected.replace(" or ", ", ").split(", ")]
    near = get_close_matches(str(value), names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"found {show(value)}; expected {' | '.join(names)}{hint}"


def _pattern(path: Key) -> str:
    """The path as the schema's key: list positions and free names removed."""
    text = ".".join(part for part in path if isinstance(part, str))
    if text.startswith("data.validation."):
        return "data.validation"
    return text


def unknown_key(path: Key, written: Key) -> str:
    """What to say about a key that the schema does not have: another tool's name, the nearest name, or all names.

    Args:
        path: where it is in the long form.
        written: where the user wrote it.
    """
    last = str(path[-1])
    hint = hint_for(dotted(written))
    if hint:
        return hint
    if last in all_keys():
        return (
            f"unknown key; a file nests its keys: `{': {'.join(last.split('.'))}: ...{'}' * last.count('.')}`"
        )
    beside = siblings(_pattern(path[:-1]))
    around = dotted(written[:-1])
    if last in beside:
        owners = [task for task, options in TASK_OPTIONS.items() if last in options.model_fields]
        return f"not an option of this task; {', '.join(owners) or 'another one'} has it"
    near = get_close_matches(last, beside, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {f'{around}.{near[0]}' if around else near[0]}?"
    elsewhere = [key for key in all_keys() if key.rpartition(".")[2] == last]
    if not elsewhere:
        names = {key.rpartition(".")[2]: key for key in reversed(list(all_keys()))}
        elsewhere = [
            names[name] for name in get_close_matches(last.rpartition(".")[2], names, n=1, cutoff=0.75)
        ]
    if elsewhere:
        return f"unknown key; did you mean {min(elsewhere, key=len)}?"
    return f"unknown key; {around or 'a recipe'} has {', '.join(beside)}"

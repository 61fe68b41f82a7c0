"""The reference of all recipe keys as Markdown, read out of the schema: types, defaults and the fields' docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, PlainValidator
from pydantic.fields import FieldInfo

from bigbatch.recipe import adapters, attention, inputs, learning, machine, schema, tasks
from bigbatch.recipe.keys import section_of, walk
from bigbatch.recipe.sugar import NAMED_SECTIONS
from bigbatch.recipe.values import PLANNED, AutoOr, Built, NamedOr, Section, show
from bigbatch.units import Quantity

Check = TypeVar("Check", NamedOr, AutoOr, Built)
_TYPES = {
    bool: "true / false",
    int: "whole number",
    float: "number",
    str: "text",
    Any: "anything",
    Quantity: "quantity",
    dict: "mapping",
    list: "list",
}


def reference() -> str:
    """One table for the top level and one for each section, in the order of the schema."""
    docs = field_docs()
    top: list[str] = []
    sections: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    shown_at: dict[type[Section], str] = {}
    for key, owner, name, info in walk():
        inner = section_of(info.annotation)
        if shown_at.setdefault(owner, key.rpartition(".")[0]) != key.rpartition(".")[0]:
            continue  # data.validation and data.test take what data.train takes
        doc = docs.get((owner.__name__, name), "")
        parent, _, last = key.rpartition(".")
        shown = (
            f"[`{last}`](#recipe-{key.replace('.', '-')})"
            if inner is not None and not parent
            else f"`{last}`"
        )
        row = f"| {shown} | {_cell(_type(info))} | {_cell(_default(info))} | {_cell(doc + _today(info))} |"
        (top if not parent else sections.setdefault(parent, [])).append(row)
        if inner is not None:
            titles[key] = _title(key, inner)
    head = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    parts = ["\n".join([*head, *top])]
    for key, rows in sections.items():
        anchor = f"(recipe-{key.replace('.', '-')})="
        parts.append("\n".join([anchor, f"### {key}", "", titles[key], "", *head, *rows]))
    return "\n\n".join(parts) + "\n"


def field_docs() -> dict[tuple[str, str], str]:
    """(section's class, field) -> the docstring under the field, its base's where the section has taken it over."""
    found: dict[tuple[str, str], str] = {}
    for module in (adapters, attention, inputs, tasks, learning, machine, schema):
        for node in ast.parse(inspect.getsource(module)).body:
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            found |= {(node.name, name): text for (owner, name), text in found.items() if owner in bases}
            for entry, below in zip(node.body, node.body[1:], strict=False):
                is_doc = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and is_doc:
                    text = inspect.cleandoc(str(below.value.value))  # type: ignore[attr-defined]
                    found[node.name, entry.target.id] = " ".join(text.split())
    return found


def _title(key: str, section: type[Section]) -> str:
    text = inspect.cleandoc(section.__doc__ or "")
    short = "metric" if key == "best" else "name" if key in NAMED_SECTIONS else None
    named = f" `{key}: {short.upper()}` is short for `{key}: {{{short}: {short.upper()}}}`." if short else ""
    return (
        text.replace(" In YAML a name alone is enough.", "").replace("; options stand beside `name`", "")
        + named
    )


def _type(info: FieldInfo) -> str:
    named = _checks(info, NamedOr)
    if named:
        return " / ".join((*(f"`{name}`" for name in named[0].names), "reference"))
    auto = _checks(info, AutoOr)
    if auto:
        return f"{auto[0].words} / `auto`"
    return " / ".join(dict.fromkeys(_words(info.annotation)))


def _words(annotation: object) -> list[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin in (Union, UnionType):
        return [word for part in arguments for word in _words(part)]
    if origin is Literal:
        return [f"`{value}`" for value in arguments]
    if annotation is type(None):
        return ["`null`"]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ["mapping"]
    if origin is list:
        return [f"list of {' or '.join(_words(arguments[0]))}"]
    if origin is tuple:
        return [f"list of {len(arguments)} {_words(arguments[0])[0]}s"]
    return [_TYPES.get(origin or annotation, "text")]


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if info.is_required():
        return "required"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, (Quantity, str)):
        return f"`{value}`"
    if value in ([], {}):
        return "none"
    return f"`{show(value)}`"


def _today(info: FieldInfo) -> str:
    """What of a key is planned: some of its values, all but one, or the key itself."""
    built = _checks(info, Built)
    if not built:
        return ""
    values = built[0].values
    later = [word for word in _words(info.annotation) if word.startswith("`") and word != "`null`"]
    later = [word for word in later if word.strip("`") not in map(str, values)]
    if later:
        return f" ({PLANNED}: {', '.join(later)})"
    simple = [
        f"`{show(value).strip(chr(39))}`" for value in values if isinstance(value, (str, int, Quantity))
    ]
    return f" ({PLANNED}: other values than {' or '.join(simple)})" if simple else f" ({PLANNED})"


def _checks(info: FieldInfo, kind: type[Check]) -> list[Check]:
    """What checks the values of a key, of one kind."""
    found = [*info.metadata]
    for argument in get_args(info.annotation):
        found += getattr(argument, "__metadata__", ())
    return [
        entry.func
        for entry in found
        if isinstance(entry, (AfterValidator, PlainValidator)) and isinstance(entry.func, kind)
    ]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")

"""Pages written from the sources: the recipe's keys and the names that other tools use."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from bigbatch.recipe.foreign import HUGGING_FACE, TABLE
from bigbatch.recipe.keys import section_of, walk
from bigbatch.recipe.values import Built


def write_generated(folder: Path) -> None:
    """Write recipe-keys.md and names-*.md, which other pages include; unchanged files keep their time."""
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("recipe-keys.md", recipe_keys()),
        ("names-huggingface.md", names(row for row in TABLE if row.tool == HUGGING_FACE)),
        ("names-others.md", names((row for row in TABLE if row.tool != HUGGING_FACE), tools=True)),
    ):
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def names(rows: Iterable, tools: bool = False) -> str:
    """Their key, ours, what is different."""
    lines = []
    for row in rows:
        cells = [f"`{row.name}`", f"`{row.ours}`" if row.ours else "not needed", row.why]
        lines.append([row.tool, *cells] if tools else cells)
    return table(["tool"] * tools + ["there", "here", "what is different"], lines)


# ---------------------------------------------------------------- the recipe's keys


def recipe_keys() -> str:
    """One heading a top-level section, one row a key: default, values, meaning."""
    alone: list[list[str]] = []
    sections: dict[str, tuple[str, list[list[str]]]] = {}
    home: dict[type, str] = {}
    planned = ""
    for key, section, name, info in walk():
        top, _, below = key.partition(".")
        parent = key.rpartition(".")[0]
        if below and home.setdefault(section, parent) != parent and parent != "task":
            continue  # the keys of a data file are listed once, under data.train
        meaning = field_docstrings(section).get(name, "")
        inner = section_of(info.annotation)
        if inner is not None and not below:
            sections[top] = (meaning, [])
            continue
        today = built_values(info)
        if len(today) == 1 or (inner and today) or (planned and key.startswith(planned)):
            planned = planned if planned and key.startswith(planned) else f"{key}."
            meaning += " *Planned, not built yet.*"
        elif today:
            meaning += f" *Today: {', '.join(map(shown, today))}.*"
        row = [f"`{key}`", "" if inner else shown(info.default), choices(info.annotation), meaning]
        (sections[top][1] if below else alone).append(row)
    head = ["key", "default", "values", "meaning"]
    parts = [f"### {top}\n\n{meaning}\n\n{table(head, rows)}" for top, (meaning, rows) in sections.items()]
    return "\n".join([table(head, alone), *parts])


def built_values(info: Any) -> tuple[Any, ...]:
    """The values that work today, when not all do."""
    return next(
        (entry.func.values for entry in info.metadata if isinstance(getattr(entry, "func", None), Built)), ()
    )


def shown(default: Any) -> str:
    """A default as one would write it."""
    if default is PydanticUndefined:
        return "required"
    if default is None or isinstance(default, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[default] }`"
    return f"`{list(default) if isinstance(default, tuple) else default}`"


def choices(annotation: Any) -> str:
    """The words of a Literal anywhere in the type, in code."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    return ", ".join(filter(None, map(choices, get_args(annotation))))


@cache
def field_docstrings(section: type) -> dict[str, str]:
    """The string below each field, as the source has it; those of its bases, too."""
    tree = ast.parse(Path(inspect.getfile(section)).read_text(encoding="utf-8"))
    bodies = {node.name: node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return {
        field.target.id: " ".join(below.value.value.split())
        for base in reversed(section.__mro__)
        for field, below in pairwise(bodies.get(base.__name__, []))
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }

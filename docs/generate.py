"""Pages written from the sources: the recipe's keys and the names that other tools use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bigbatch.recipe.foreign import HUGGING_FACE, TABLE
from bigbatch.recipe.reference import reference


def write_generated(folder: Path) -> None:
    """Write recipe-keys.md and names-*.md, which other pages include; files whose text is unchanged keep their time."""
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("recipe-keys.md", reference()),
        ("names-huggingface.md", names(row for row in TABLE if row.tool == HUGGING_FACE)),
        ("names-others.md", names((row for row in TABLE if row.tool != HUGGING_FACE), tools=True)),
    ):
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def names(rows: Iterable, tools: bool = False) -> str:
    """A Markdown table: their key, ours, what is different."""
    head = ["there", "here", "what is different"]
    lines = [["tool", *head]] if tools else [head]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [f"`{row.name}`", f"`{row.ours}`" if row.ours else "not needed", row.why]
        lines.append([row.tool, *cells] if tools else cells)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

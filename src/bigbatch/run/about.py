"""A run in words for people: what is trained, on what, and which of its figures counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bigbatch.build.inputs import local_model
from bigbatch.build.parts import Parts
from bigbatch.metrics.watched import figure_of
from bigbatch.stored import Damaged, read_bytes

_CARD = "README.md"
_MOST_BYTES = 2**20
_BASE = re.compile(r'^base_model: *(".*"|[^"\s]\S*) *$', re.MULTILINE)


def chosen_figure(parts: Parts) -> str | None:
    """The figure that chooses the weights, without the name of its split; None where nothing is evaluated."""
    best = parts.best_metric
    return None if best is None else figure_of(best, parts.judged)[1]


def about(parts: Parts) -> list[tuple[str, str]]:
    """(name, words) of task, data and model."""
    task, names = parts.recipe.task.name, parts.task.label_names
    kind = parts.task.kind
    what = task if kind == "single" else f"{task} ({kind})"
    counted = "tag" if task == "tag" else "class" if kind == "single" else "label"
    classes = f", {len(names):,} {_plural(counted)}" if len(names) > 1 else ""
    rows = ", ".join(f"{len(table):,} {name}" for name, table in parts.rows.items())
    chosen = chosen_figure(parts)
    kept = f"; {chosen} chooses the weights" if chosen else ""
    return [("task", f"{what}{classes}{kept}"), ("rows", rows), ("model", _model(parts))]


def _plural(word: str) -> str:
    return f"{word}es" if word.endswith("s") else f"{word}s"


def _model(parts: Parts) -> str:
    if parts.strategy.world.divides:
        return base_name(parts)
    sizes = [parameter.numel() for parameter in parts.module.parameters()]
    trained = sum(parameter.numel() for parameter in parts.module.parameters() if parameter.requires_grad)
    part = "" if trained == sum(sizes) else f", {trained:,} trained"
    start = ", weights drawn at random" if parts.recipe.model.init == "random" else ""
    return f"{base_name(parts)}, {sum(sizes):,} parameters{part}{start}"


def base_name(parts: Parts) -> str:
    """What the model is called that training starts from: a hub name, the base that a folder's card names, a folder."""
    spec = local_model(parts.recipe)
    name: Any = spec.name or getattr(getattr(parts.module, "config", None), "_name_or_path", "")
    if not name:
        return type(parts.module).__name__
    folder = Path(str(name))
    if not folder.is_dir():
        return str(name)
    return _named_by_card(folder) or _folder_name(folder)


def _named_by_card(folder: Path) -> str | None:
    try:
        text = read_bytes(folder / _CARD, most_bytes=_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, Damaged):
        return None
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = _BASE.search(head)
    if found is None:
        return None
    try:
        base = str(json.loads(found[1])) if found[1].startswith('"') else found[1]
    except ValueError:
        return None
    return base if base and not Path(base).is_absolute() else _folder_name(Path(base)) or None


def _folder_name(folder: Path) -> str:
    """`tweets/model` for a folder that is called like every run's."""
    plain = folder.name in ("model", "models", "best", "final") or folder.name.startswith("checkpoint")
    return f"{folder.parent.name}/{folder.name}" if plain and folder.parent.name else folder.name

"""The model card: what a stranger who finds the model folder needs to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import bigbatch
from bigbatch.run.build import Parts
from bigbatch.run.progress import Progress


def model_card(parts: Parts, final: Mapping[str, Mapping[str, float | None]], progress: Progress) -> str:
    """Markdown with Hugging Face's metadata block: task, labels, figures, how it was trained, how to use it."""
    recipe = parts.recipe
    base = recipe.model.name or type(parts.module).__name__
    names = getattr(parts.task, "label_names", ())
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [bigbatch]",
        f"base_model: {json.dumps(base, ensure_ascii=False)}",
        "---",
        "",
        _title(parts.task),
        "",
        f"Fine-tuned from {_plain(base)} with bigbatch {bigbatch.__version__}.",
        "",
    ]
    if names:
        lines += ["Labels: " + ", ".join(f"`{_plain(name)}`" for name in names) + ".", ""]
    lines += [*_figures(final), *_training(parts, progress), *_usage()]
    return "\n".join(lines) + "\n"


def _title(task: Any) -> str:
    """What the model does, as far as the task says it."""
    known = {"single": "# Text classifier", "multi": "# Text classifier", "regression": "# Text regressor"}
    return known.get(getattr(task, "kind", ""), "# Model")


def _figures(final: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    if not final:
        return ["It was not evaluated: the recipe names no validation or test data.", ""]
    splits = list(final)
    keys = list(dict.fromkeys(key for figures in final.values() for key in figures))
    rows = [
        f"| {_plain(key)} | " + " | ".join(_shown(final[split].get(key)) for split in splits) + " |"
        for key in keys
    ]
    return ["| metric | " + " | ".join(splits) + " |", "|---|" + "---|" * len(splits), *rows, ""]


def _shown(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"


def _training(parts: Parts, progress: Progress) -> list[str]:
    recipe = parts.recipe
    batch = f"{recipe.batch.samples} samples" if recipe.batch.samples else f"{recipe.batch.tokens} tokens"
    optimizer = (
        f"{recipe.optimizer.name}, learning rate {parts.effective.lr:g}, {recipe.schedule.name} schedule"
    )
    return [
        "## Training",
        "",
        f"- {batch} per update, {progress.update:,} updates, {progress.position:,} samples, "
        f"{progress.tokens:,} tokens",
        f"- {_plain(optimizer)}",
        f"- texts cut to {parts.max_length} tokens",
        "",
    ]


def _usage() -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'model = AutoModelForSequenceClassification.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
        "```",
    ]


def _plain(text: str) -> str:
    """Names are data: no Markdown or HTML of theirs is rendered."""
    visible = "".join(character if character.isprintable() else " " for character in str(text))
    escaped = visible.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("|", "\\|").replace("`", "'").replace("\n", " ")

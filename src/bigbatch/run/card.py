"""The model card: what a stranger who finds the model folder needs to know."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import bigbatch
from bigbatch.build.parts import Parts
from bigbatch.model.heads import HEADS, usage_of
from bigbatch.model.patterns import IN_CONFIG, pattern_of
from bigbatch.store.progress import Progress

Figures = Mapping[str, Mapping[str, float | None]]
"""Split -> name -> loss or metric."""


def model_card(
    parts: Parts,
    final: Figures,
    progress: Progress,
    *,
    base: str,
    baselines: Mapping[str, Figures] = {},
    verdict: str = "",
    kept: str = "",
    adapters: bool = False,
) -> str:
    """Markdown with Hugging Face's metadata block: task, labels, figures, how it was trained, how to use it.

    Args:
        parts: of the run.
        final: its figures.
        progress: how far it came.
        base: what the model is called that training started from.
        baselines: by name, the figures of simple models of the same rows.
        verdict: the run in one sentence; class names in it are data.
        kept: which weights these are, and why, in one sentence.
        adapters: whether the folder holds adapters alone.
    """
    names = parts.task.label_names
    head = HEADS[parts.task.head.kind]
    lines = [
        "---",
        f"library_name: {'peft' if adapters else 'transformers'}",
        f"pipeline_tag: {head.pipeline}",
        "tags: [bigbatch]",
        f"base_model: {json.dumps(base, ensure_ascii=False)}",
        "---",
        "",
        f"# {parts.task.title}",
        "",
        f"Fine-tuned from {_shown_as_it_is(base)} with bigbatch {bigbatch.__version__}.",
        "",
    ]
    if names:
        lines += ["Labels: " + ", ".join(map(_shown_as_it_is, names)) + ".", ""]
    if verdict:
        lines += [f"Result: {_shown_as_it_is(verdict)}", ""]
    lines += [*_figures(final, baselines), *_seen(parts), *_training(parts, progress, kept)]
    lines += usage_of(head, adapters=adapters, labels=len(names))
    return "\n".join(lines) + "\n"


def _seen(parts: Parts) -> list[str]:
    """Which tokens see which, where that is not all of them."""
    pattern, memory = pattern_of(parts.model.module), parts.task.facts.memory
    read = (
        f"Each piece of a text was read with up to {memory} tokens in front of it, which are not predicted."
    )
    remembered = [read, ""] if memory else []
    if pattern is None:
        return remembered
    return [
        *remembered,
        f"Its tokens see one another by a pattern: {pattern}. bigbatch reads that from `{IN_CONFIG}` in config.json "
        "(`bigbatch evaluate`, `bigbatch predict`, and training from this folder). transformers does not know the key: "
        "opened as below, every token sees all others, and texts that are longer than what a token sees give other "
        "outputs than the figures above are of.",
        "",
    ]


def _figures(final: Figures, baselines: Mapping[str, Figures] = {}) -> list[str]:
    if not final:
        return ["It was not evaluated: the recipe names no validation or test data.", ""]
    columns = {split: figures for split, figures in final.items()}
    for name, splits in baselines.items():
        columns |= {f"{name}: {split}": splits[split] for split in final if split in splits}
    keys = list(dict.fromkeys(key for figures in final.values() for key in figures))
    rows = [
        f"| {_cell(key)} | " + " | ".join(_shown(figures.get(key)) for figures in columns.values()) + " |"
        for key in keys
    ]
    heads = " | ".join(map(_cell, columns))
    return [f"| metric | {heads} |", "|---|" + "---|" * len(columns), *rows, ""]


def _shown(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"


def _training(parts: Parts, progress: Progress, kept: str) -> list[str]:
    recipe = parts.recipe
    batch = f"{recipe.batch.samples} samples" if recipe.batch.samples else f"{recipe.batch.tokens} tokens"
    optimizer = (
        f"{_shown_as_it_is(recipe.optimizer.name)}, learning rate {parts.clocks.effective.lr:g}, "
        f"{_shown_as_it_is(recipe.schedule.name)} schedule"
    )
    return [
        "## Training",
        "",
        f"- {batch} per update, {progress.update:,} updates, {progress.position:,} samples, "
        f"{progress.tokens:,} tokens",
        f"- {optimizer}",
        f"- {_read(parts)}",
        *([f"- {_sentence(kept)}"] if kept else []),
        "",
    ]


def _read(parts: Parts) -> str:
    """What was made of a row."""
    form = parts.task.facts.image
    if form is None:
        return f"texts cut to {parts.model.max_length} tokens"
    return f"images of {form.height} x {form.width} pixels, {form.positions} positions each"


def _shown_as_it_is(text: str) -> str:
    """Names are data: a span of code, in which no Markdown, HTML or entity is read.

    Example:
        >>> _shown_as_it_is("R&D <b>")
        '`R&D <b>`'
        >>> _shown_as_it_is("a`b")
        '``a`b``'
    """
    visible = "".join(character if character.isprintable() else " " for character in str(text)) or " "
    # A span ends at as many backticks as it began with.
    longest = max((len(run) for run in re.findall("`+", visible)), default=0)
    fence = "`" * (longest + 1)
    room = " " if visible.startswith("`") or visible.endswith("`") else ""
    return f"{fence}{room}{visible}{room}{fence}"


def _sentence(text: str) -> str:
    """As it is where nothing in it means anything to Markdown; names in it are data.

    Example:
        >>> _sentence("f1_macro was .9 (p < 0.001)"), _sentence("f1_<b> was .9")
        ('f1_macro was .9 (p < 0.001)', '`f1_<b> was .9`')
    """
    plain = re.compile("[A-Za-z0-9.,:;()=@%-]+(_[A-Za-z0-9.,:;()=@%-]+)*|<")
    return text if all(map(plain.fullmatch, text.split(" "))) else _shown_as_it_is(text)


def _cell(name: str) -> str:
    """A name in a table, where a bar ends a cell even inside of a span; plain words need no span."""
    if re.fullmatch("[A-Za-z0-9]+(_[A-Za-z0-9]+)*", name):
        return name
    return _shown_as_it_is(name).replace("|", "\\|")

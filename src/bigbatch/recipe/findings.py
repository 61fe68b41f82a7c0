"""What `init` knows before it writes a recipe: of the data, of the model, and what the user asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from bigbatch.recipe.model_facts import ModelFacts


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known about the data, and what the user asked for."""

    files: tuple[str, ...]
    """Data files as typed; names with `test`, `valid` or `dev` in them become those splits."""
    out: Path
    """Where the recipe goes; its paths are written relative to this file's folder."""
    text: str | None
    """Column of the text, of the words of sentences (kind `tags`), or of what is looked for (`document`); None when it
    was not found."""
    image: str | None = None
    """Column of the image, in whose place there is no text."""
    boxes: str | None = None
    """Column of where things are on it; that of their classes is `label`."""
    pair: str | None = None
    """Column of the second text."""
    document: str | None = None
    """Column of texts that belong to those of `text`, where there is no label: then pairs are matched."""
    writes: bool = False
    """Whether `document` is called like what is written from `text`: a translation, a summary."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Part of a conversation -> column; empty where rows are none."""
    question: str | None = None
    """Column of questions whose answers stand in `text`."""
    answers: str | None = None
    """Column of these answers."""
    unanswerable: int = 0
    """Questions without an answer."""
    structure: str | None = None
    """Column of how the sequences of `text` are folded."""
    events: Mapping[str, str] = field(default_factory=dict)
    """Role -> column of who had which item when; empty where rows are no events."""
    chosen: str | None = None
    """Column of the better answer to what stands in that of `text`."""
    rejected: str | None = None
    """Column of the other answer."""
    negative: str | None = None
    """Column of texts that do not belong to them."""
    label: str | None
    """Column of the label, labels, number or tags; None when there is none: then the text itself is learnt."""
    id: str | None = None
    """Column that names the rows."""
    kind: Literal["single", "multi", "regression", "tags", "classes"] = "single"
    rows: int
    """Rows of the training files."""
    class_counts: Mapping[str, int] = field(default_factory=dict)
    """Label -> rows; empty for regression."""
    lengths: Mapping[str, float] = field(default_factory=dict)
    """Name of a percentile -> words, such as {"p50": 17, "p99": 31}."""
    language: str | None = None
    """ISO 639 code, or None when it is not known."""
    model: str | None = None
    """The model asked for."""
    known: ModelFacts | None = None
    """What is known about the model, asked for or not."""
    model_why: str = ""
    """Why this model, where it was not asked for."""
    running: float | None = None
    """Share of lines that the next one carries on, where the rows are lines of a running text."""
    encoding: str = "utf-8"
    quoting: str = "minimal"
    empty_texts: int = 0
    """Rows without text."""
    first: FirstChoices | None = None
    """What `auto` will stand for, as far as that is known without the model."""


class FirstChoices(Protocol):
    """What `bigbatch.rules.first_run` decides; a room above this one."""

    @property
    def first_batch(self) -> int: ...
    @property
    def last_batch(self) -> int: ...
    @property
    def batch_reason(self) -> str: ...
    @property
    def epochs(self) -> float: ...
    @property
    def epochs_reason(self) -> str: ...
    @property
    def measured(self) -> bool: ...

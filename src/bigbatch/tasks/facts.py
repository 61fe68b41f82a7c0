"""What a run tells a task: what it found out, and what the model is to be made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from bigbatch.data.labels import LabelSet
from bigbatch.data.pixels import ImageForm
from bigbatch.data.tables import DataTable
from bigbatch.protocols import Metric, Tokenizer
from bigbatch.samples import Table
from bigbatch.tasks.losses import UnitLoss
from bigbatch.tasks.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import nn

    from bigbatch.model.pooling import Pooling
    from bigbatch.recipe.learning import ModelSpec


NOT_AN_OPTION = {"option": False}
"""Metadata of a field that no recipe sets."""


class BuildFacts(TypedDict):
    """What `build` is told."""

    seed: int
    """`seed.model`."""
    dropout: float | None
    """Every dropout probability; None: the model's own."""
    module: nn.Module | None
    """The caller's live model; None: the model is loaded."""
    note: Callable[[str], object]
    """Told what the user should know."""
    base: NotRequired[ModelSpec | None]
    """Of a folder of adapters, where another place is known for it than the folder names."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What a run finds out and a task may need to know. Before it is known there are defaults."""

    labels: LabelSet | None = None
    """The classes in the order of the outputs; None: unknown, or there are none."""
    max_length: int | None = None
    """Tokens kept of a sample."""
    block_length: int | None = None
    """Tokens of a piece at most, where a task joins rows and cuts them anew."""
    memory: int = 0
    """Tokens that are read in front of a piece (`model.memory`)."""
    pools: Literal["first", "last", "tokens"] = "first"
    """Which token of a sample a head for whole samples reads; `tokens`: the head gives an output for every token."""
    pooling: Pooling | None = None
    """How the model's folder pools the hidden states of a text; without a word about it, by its attention."""
    vocabulary: Vocabulary | None = None
    """The tokenizer's ids."""
    tokenizer: Tokenizer | None = None
    """What makes texts of the ids that a model writes; None where rows are token ids."""
    image: ImageForm | None = None
    """What the model takes for an image; None: it reads text."""
    data_seed: int = 0
    """`seed.data`: what is random in a task is a function of (this, epoch, sample)."""
    loss: UnitLoss | None = None
    """`loss` of the recipe; None: the usual one."""
    class_weights: str | Mapping[str, float] = "none"
    """`loss.class_weights` of the recipe."""
    weights_C: tuple[float, ...] | None = None
    """The weights themselves, once `fit` has seen the training table."""
    whole_weights: bool = True
    """Whether every unit of the training table counts once or not at all."""
    derive: Callable[[Table, DataTable | None], Table] | None = None
    """Computes the derived columns (`Task.needs`) of a table that evaluations see, and its rows; None: nobody can."""
    metrics: tuple[str | Metric, ...] = ()
    """What the recipe asks for, names or objects; empty: the usual ones."""


def options_of(chosen: Any) -> dict[str, Any]:
    """The fields of a dataclass that a recipe may set, and their values."""
    options = [each.name for each in fields(chosen) if each.metadata.get("option", True)]
    return {name: getattr(chosen, name) for name in options}

"""What is known about a model before it is loaded: from its configuration and the headers of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ModelKind = Literal["masked", "causal", "encoder-decoder", "unknown"]
WeightsKind = Literal["pretrained", "random", "none"]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model folder."""

    name: str
    """As a recipe names it: a hub name, or a folder."""
    kind: ModelKind
    """`masked`: each token sees those on both sides (BERT); `causal`: those before it (GPT); `encoder-decoder` (T5)."""
    labels: tuple[str, ...] = ()
    """Names of the outputs of a head of labels; empty where there is none."""
    labels_of: Literal["texts", "words"] | None = None
    """What such a head labels."""
    weights: WeightsKind = "pretrained"
    """`random`: there are weights, and no training has moved them; `none`: no file of weights."""
    hidden: int | None = None
    """Width."""
    vocabulary: int | None = None
    """Token ids."""
    positions: int | None = None
    """Tokens of a sample at most, as the configuration has it."""
    origin: str = ""
    """Where it was found, for people; empty where it was asked for."""

    @property
    def multilingual(self) -> bool:
        """Whether the vocabulary is as large as those that know many languages."""
        return (self.vocabulary or 0) > 100_000


def listed_models(models: Sequence[ModelFacts], most: int = 3) -> str:
    """Names and where each is, for people."""
    shown = ", ".join(f"{each.name} ({each.origin})" for each in models[:most])
    return shown + (f" and {len(models) - most} more" if len(models) > most else "")


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model that a first recipe names."""

    name: str
    known: ModelFacts | None = None
    """None: nothing of it is on this machine."""
    why: str = ""
    """Why this one, where the user did not name it; a comment."""
    said: tuple[str, ...] = ()
    """What the user is told."""

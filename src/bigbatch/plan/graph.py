"""What one micro-batch computes, part by part, and what of it nobody reads: plain numbers and sentences.

`graph.analyse` fills these records; the console, `RUN/graph.json` and the report show them. Nothing here knows torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Kind = Literal[
    "unread", "unused", "repeated", "sync", "cast", "copy", "fill", "parameter", "padding", "collected"
]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a piece of work takes. FLOPs are those of matrix products, convolutions and attention scores."""

    forward_flops: int = 0
    backward_flops: int = 0
    recompute_flops: int = 0
    """Forward work that is done again in the backward pass."""
    read_bytes: int = 0
    """Bytes of every operation's tensor inputs: an upper bound of memory traffic."""
    written_bytes: int = 0
    kept_bytes: int = 0
    """Bytes that stay in memory for the backward pass, each storage once, weights not counted."""
    seconds: float | None = None
    """Measured once, so noisy; None on accelerators, where operations only queue."""
    operations: int = 0

    @property
    def flops(self) -> int:
        return self.forward_flops + self.backward_flops + self.recompute_flops

    @property
    def moved_bytes(self) -> int:
        return self.read_bytes + self.written_bytes

    def __add__(self, other: Cost) -> Cost:
        summed = {
            entry.name: getattr(self, entry.name) + getattr(other, entry.name)
            for entry in fields(self)
            if entry.name != "seconds"
        }
        times = [one for one in (self.seconds, other.seconds) if one is not None]
        return Cost(**summed, seconds=sum(times) if times else None)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum; a zero cost when there is none."""
    return sum(costs, Cost())


@dataclass(frozen=True, kw_only=True)
class ModuleCost:
    """A module's own work, that of its children apart."""

    name: str
    """Inside its part: `attention.self.query`; empty for the part itself."""
    kind: str
    """Class name."""
    cost: Cost
    unread_fraction: float | None = None
    """Share of its output's positions whose gradient is exactly zero; None when it gets no gradient."""


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """A block application, the embeddings, the head, the loss: what a drawing has one box for."""

    name: str
    """`embeddings`, `block 3`, `classifier`, `loss`, …"""
    cost: Cost
    modules: tuple[ModuleCost, ...] = ()
    unread_flops: int = 0
    """Of the part's FLOPs, those for positions that nothing behind it reads."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that need not be computed, or that costs more than it looks."""

    kind: Kind
    where: str
    """The part, module or line of code."""
    what: str
    """One sentence: evidence first, then the size."""
    flops: int = 0
    """Of this micro-batch, forward and backward, that would not be needed."""
    moved_bytes: int = 0
    """Likewise, read and written."""
    seconds: float | None = None
    """Likewise, as measured once; None where it was not measured or on accelerators."""
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Share of computed tokens that is padding, for one global batch, by way of cutting it."""

    samples: int
    real_tokens: int
    random_32: float
    """Padded batches of 32 in stream order: what most trainers compute."""
    sorted_32: float
    """Padded batches of 32, sorted by length."""
    sorted_budget: float
    """Padded micro-batches of at most the plan's tokens, sorted by length."""
    packed: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The same samples the plain way: padded, every position computed."""

    computed_tokens: int
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class GraphAnalysis:
    """One micro-batch, traced: forward, loss, backward."""

    forward: str
    """Which way it ran: `packed` or `padded`."""
    device: str
    precision: str
    samples: int
    real_tokens: int
    computed_tokens: int
    trained_parameters: int
    parts: tuple[PartCost, ...]
    """In the order in which they first ran."""
    findings: tuple[Finding, ...] = ()
    """The most expensive first."""
    padding: Padding | None = None
    plain: Plain | None = None
    """What the plain way would have cost; None where this is it."""
    notes: tuple[str, ...] = ()
    """What the figures leave out."""
    analysis_seconds: float = field(default=0.0, compare=False)
    """What tracing cost."""

    @property
    def cost(self) -> Cost:
        """Of the whole micro-batch."""
        return total(part.cost for part in self.parts)

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """The findings of one kind, the most expensive first."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def to_json(self) -> dict[str, object]:
        """The content of `graph.json`."""
        return {"version": 1, **asdict(self)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> GraphAnalysis:
        """What `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: the content is of another version, or damaged.
        """
        known = dict(content)
        if known.pop("version") != 1:
            raise ValueError("graph.json is of another version")
        padding, plain = known.pop("padding"), known.pop("plain")
        return GraphAnalysis(
            **{
                **known,
                "parts": tuple(_part(part) for part in known["parts"]),
                "findings": tuple(Finding(**finding) for finding in known["findings"]),
                "notes": tuple(known["notes"]),
            },
            padding=None if padding is None else Padding(**padding),
            plain=None if plain is None else Plain(**{**plain, "cost": Cost(**plain["cost"])}),
        )


def _part(content: Mapping[str, Any]) -> PartCost:
    modules = tuple(ModuleCost(**{**module, "cost": Cost(**module["cost"])}) for module in content["modules"])
    return PartCost(**{**content, "cost": Cost(**content["cost"]), "modules": modules})

"""What happened in a run, line by line, and what observers may ask of it. Frozen; nothing here knows numpy or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from bigbatch.samples import Predictions as Predictions
from bigbatch.samples import Sample as Sample
from bigbatch.samples import Targets as Targets


def utc_now() -> str:
    """The current time, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_PREFIXES = {"terms": "loss.", "sources": "loss.source."}
"""In a line, of the names of a mapping."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of `metrics.jsonl`. Fields are read as items too: `record["f1_macro"]`."""

    kind = "record"
    step: int
    """1-based update number; 0 before the first update."""
    time: str = field(default_factory=utc_now)

    def to_dict(self) -> dict[str, Any]:
        """The line as a flat dictionary, NaN and Inf as None with `nonfinite: true`."""
        line: dict[str, Any] = {"kind": self.kind, "time": self.time, "step": self.step}
        for name in (entry.name for entry in fields(self) if entry.name not in ("step", "time")):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                line |= {f"{_PREFIXES.get(name, '')}{key}": item for key, item in value.items()}
            elif name != "empty" or value:
                line[name] = value
        return _finite(line)

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The field, or `default` when this record has none of that name."""
        return self.to_dict().get(key, default)


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN and Inf by None, once said by `nonfinite: true`."""
    broken = [key for key, value in line.items() if isinstance(value, float) and not math.isfinite(value)]
    return {**line, **dict.fromkeys(broken), "nonfinite": True} if broken else line


@dataclass(frozen=True, kw_only=True)
class Update(Record):
    """One optimiser update (docs/run-directory.md: metrics.jsonl)."""

    kind = "update"
    samples: int
    """Samples consumed so far."""
    tokens: int
    """Real tokens consumed so far."""
    batch_samples: int
    batch_tokens: int
    loss: float | None
    """Weighted sum over the global batch divided by its denominator, nats; None when `empty`."""
    terms: Mapping[str, float | None] = field(default_factory=dict)
    grad_norm: float | None
    """L2 norm of the whole gradient before clipping; None when `empty`."""
    lr: float
    """Learning rate of the first parameter group, as used."""
    seconds: float
    """Wall time of this update, without evaluation, checkpoint and compilation."""
    wait_seconds: float = 0.0
    """Part of `seconds` spent waiting for data."""
    padding_share: float = 0.0
    """1 - real tokens / computed tokens."""
    peak_memory_bytes: int = 0
    """Since process start, largest rank."""
    skipped: bool = False
    empty: bool = False
    """Nothing in the batch counts, so nothing was changed; written only where it is so."""
    sources: Mapping[str, float | None] = field(default_factory=dict)
    """Loss of each source of a mixture by share (docs/data.md), `loss.source.<name>`; None of one that is not in it."""
    noise: Mapping[str, float | None] = field(default_factory=dict)
    """Of updates whose gradient noise was measured: `noise_scale` and its kin (docs/noise-scale.md)."""


@dataclass(frozen=True, kw_only=True)
class Eval(Record):
    """One evaluation of one split."""

    kind = "eval"
    split: str
    """`validation`, `validation.<name>` for named sets, `test`."""
    loss: float | None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """By name; a figure, or the loss, is None where it does not exist on this split."""
    seconds: float
    samples_per_second: float


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """Something worth knowing that is neither: a resume, a skipped update, a change of plan, a request."""

    kind = "event"
    event: str
    """Short name in snake case: `resumed`, `nonfinite`, `out_of_memory`, `checkpoint`, `stopped`, …"""
    why: str
    did: str
    details: Mapping[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- requests of observers and of the caller


@dataclass(frozen=True)
class Stop:
    """Stop at the next update boundary; the run ends as `finished` with this reason."""

    why: str = "asked to stop"


@dataclass(frozen=True)
class Save:
    """Write a checkpoint at the next update boundary."""

    why: str = "asked to save"


@dataclass(frozen=True)
class Evaluate:
    """Evaluate at the next update boundary."""

    why: str = "asked to evaluate"


Request = Stop | Save | Evaluate

"""What a contestant is told and what it hands back, as JSON files between processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from bigbatch.errors import MachineError
from bigbatch.stored import Damaged, read_object
from bigbatch.written import replace_text

Kind = Literal["classify", "clm"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One contestant's work: the same for all of them but for the last fields."""

    kind: Kind
    """What is learnt: a class of each text, or the next token."""
    data: str
    """CSV file with the columns `text`, `pair` (where the recipe has one) and `label`; clm: `text` alone."""
    model: str
    """Folder with weights (the head's too), configuration and tokenizer."""
    recipe: str
    """Recipe file over the same data and model, for bigbatch."""
    folder: str
    """Where the contestant may write."""
    labels: tuple[str, ...]
    """Class names in class order; empty for clm."""
    max_length: int
    """Tokens that samples are cut to; clm: tokens of a document at most."""
    order: tuple[int, ...]
    """Rows in the order in which they are consumed, `batch_samples` an update."""
    batch_samples: int
    """Samples per update, over all micro-batches."""
    warmup_updates: int
    """First updates, which are not counted."""
    counted_updates: int
    """Updates after those."""
    predict_samples: int
    """Texts to predict after training: that many of the counted ones; 0 leaves prediction out."""
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip: float | None
    """Largest L2 norm of the whole gradient."""
    seed: int
    device: str
    """As torch names it: `cpu`, `cuda:0`."""
    threads: int
    """Threads of an operation."""
    precision: str
    """`fp32` or `bf16`."""
    compile: bool
    """Whether contestants that can compile do."""
    trial: tuple[int, ...] = ()
    """Instead of running: find the fastest of these numbers of samples a device takes at once."""
    micro_samples: int = 32
    """Samples a device takes at once, where the contestant counts in samples."""
    shapes: tuple[tuple[int, int, int], ...] = ()
    """Matrix products (rows, inner, columns) that the machine's speed is measured on."""

    @property
    def updates(self) -> int:
        """All updates, warm-up included."""
        return self.warmup_updates + self.counted_updates

    @property
    def counted_order(self) -> tuple[int, ...]:
        """The rows of the counted updates."""
        return self.order[self.warmup_updates * self.batch_samples :]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a contestant hands back: figures, or why there are none."""

    failed: str | None = None
    """The end of what a contestant that crashed had to say."""
    started_at: float = 0.0
    """Seconds since 1970 when its process was started; set by the parent."""
    update_ends: tuple[float, ...] = ()
    """Seconds since 1970 at the end of each update, warm-up included; the device was waited for."""
    samples: int = 0
    """In the counted updates."""
    tokens: int = 0
    """Real tokens in the counted updates, padding not counted."""
    warmup_updates: int = 0
    loss: float | None = None
    """Of the first update, nats, as the contestant reports it."""
    grad_norm: float | None = None
    """Of the first update, before clipping, as the contestant reports it."""
    peak_memory_bytes: int = 0
    """High-water mark at the end of the counted updates: resident memory of the process, or CUDA's allocator."""
    predict_samples: int = 0
    predict_seconds: float = 0.0
    """From texts in memory to labels and probabilities, tokenising included."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth knowing, such as the micro-batch size."""

    @property
    def seconds(self) -> float:
        """Of the counted updates, from the end of the last warm-up update on: waiting for data included."""
        return self.update_ends[-1] - self.update_ends[self.warmup_updates - 1]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds

    @property
    def first_update_seconds(self) -> float:
        """From the command to the end of the first update."""
        return self.update_ends[0] - self.started_at

    @property
    def predict_samples_per_second(self) -> float | None:
        return self.predict_samples / self.predict_seconds if self.predict_seconds else None


Built = TypeVar("Built", Job, Outcome)


def write_json(path: Path, value: object) -> None:
    """Write a dataclass or a mapping, all or nothing."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    replace_text(path, json.dumps(plain, indent=1) + "\n", durable=False)


def read_job(path: Path) -> Job:
    """The job that the parent wrote."""
    found = _content(path)
    found["shapes"] = tuple(map(tuple, found["shapes"]))
    return _built(Job, found)


def outcome_from(found: Mapping[str, object]) -> Outcome:
    """An outcome from its JSON form."""
    return _built(Outcome, found)


def read_outcome(path: Path) -> Outcome:
    """What a contestant wrote.

    Raises:
        MachineError: it is damaged.
    """
    try:
        return outcome_from(_content(path))
    except TypeError as error:  # a key is missing
        raise MachineError(f"{path} cannot be used: {error}") from None


def _content(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except Damaged as error:
        raise MachineError(f"{path} {error}") from None


def _built(kind: type[Built], found: Mapping[str, Any]) -> Built:
    """JSON knows no tuples."""
    names = [each.name for each in fields(kind)]
    return kind(**{name: _tuple(found[name]) for name in names if name in found})


def _tuple(value: object) -> Any:
    return tuple(value) if isinstance(value, list) else value

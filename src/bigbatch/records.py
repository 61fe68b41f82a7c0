"""Plain data that travels between rooms. Frozen; numpy only; nothing here knows torch.

Shape letters: B samples of a batch, T packed tokens, U units (what the loss counts), C outputs per unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

Packing = Literal["packed", "padded"]


def utc_now() -> str:
    """The current time, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------- samples and batches


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One encoded row: what `Task.encode` returns and the token cache stores."""

    ids: np.ndarray
    """Token ids (length,) int32, special tokens included, truncated to `max_length`."""
    segments: np.ndarray | None = None
    """Token types (length,) int8, or None for models without them."""
    reads: np.ndarray
    """Token positions that the head reads, one a unit (U,) int32, relative to the sample's start."""
    values: np.ndarray
    """Targets (U,) int64 class ids, (U,) float32 numbers, (U, C) float32 multi-label rows; of your own tasks others."""
    weights: np.ndarray
    """Weight of each unit (U,) float32; 0 takes a unit out of loss and denominator."""
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further numbers per unit (U,) float32, for losses and metrics of your own."""
    truncated: bool = False
    """Whether tokens were cut off to keep `max_length`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Per unit: what the loss and the metrics compare with. Arrays here, tensors inside the step."""

    values: Any
    """(U,) int64, (U,) float32 or (U, C) float32."""
    weights: Any
    """(U,) float32: sample weight times class weight."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers per unit (U,) float32."""

    def map(self, convert: Callable[[Any], Any]) -> Targets:
        """The same targets with every array converted (to tensors, to a device, to a slice)."""
        return Targets(
            values=convert(self.values),
            weights=convert(self.weights),
            extras={name: convert(values) for name, values in self.extras.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenTable:
    """A tokenised split: ragged columns as flat arrays with offsets (memory-mapped from the token cache)."""

    ids: np.ndarray
    """(all tokens,) int32."""
    token_offsets: np.ndarray
    """(samples + 1,) int64 into `ids` and `segments`."""
    segments: np.ndarray | None
    """(all tokens,) int8 or None."""
    reads: np.ndarray
    """(all units,) int32, relative to the sample's start."""
    unit_offsets: np.ndarray
    """(samples + 1,) int64 into `reads`, `values`, `weights` and `extras`."""
    values: np.ndarray
    """(all units, ...) targets."""
    weights: np.ndarray
    """(all units,) float32."""
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    truncated_samples: int = 0

    def __len__(self) -> int:
        return len(self.token_offsets) - 1

    @property
    def lengths_B(self) -> np.ndarray:
        """Tokens of each sample (samples,) int64."""
        return np.diff(self.token_offsets)


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalBatch:
    """All samples of one update, over all ranks, in stream order."""

    update: int
    """1-based number of the update that consumes this batch."""
    first_position: int
    """Stream position (samples consumed before this batch)."""
    sample_ids_B: np.ndarray
    """Row numbers in the token table (B,) int64."""
    lengths_B: np.ndarray
    """Tokens of each sample (B,) int64."""
    targets: Targets
    """Targets of all units of the batch, in stream order: enough for every denominator."""
    view: TokenTable | None = None
    """These samples, in this order, as this update sees them (masked, say); None: as the split's table has them."""

    @property
    def samples(self) -> int:
        return len(self.sample_ids_B)

    @property
    def tokens(self) -> int:
        return int(self.lengths_B.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """Samples that run through the model together, concatenated without padding.

    The padded path pads them itself; `capacity_tokens` bounds what is computed, padding included.
    """

    index: int
    """Number within the update (or within the evaluation pass), from 0."""
    sample_ids_B: np.ndarray
    """(B,) int64; -1 marks filler."""
    ids_T: np.ndarray
    """(T,) int64 token ids, samples one behind the other."""
    lengths_B: np.ndarray
    """(B,) int64 tokens of each sample."""
    segments_T: np.ndarray | None
    """(T,) int64 token types or None."""
    reads_U: np.ndarray
    """(U,) int64 positions in `ids_T` that the head reads."""
    unit_sample_U: np.ndarray
    """(U,) int64: which of the B samples each unit belongs to."""
    targets: Targets
    packing: Packing
    capacity_tokens: int
    """Upper bound of computed tokens that the plan allows; larger only when one sample alone exceeds it."""
    last: bool = False
    """Whether this process has no further one in the update: its gradients are complete after it."""

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return len(self.ids_T)

    @property
    def computed_tokens(self) -> int:
        """Tokens that run through the model: with padding for padded micro-batches."""
        if self.packing == "packed":
            return self.tokens
        return len(self.lengths_B) * int(self.lengths_B.max(initial=0))


@dataclass(frozen=True, kw_only=True)
class LossSums:
    """What one pass over the micro-batches of an update left behind, summed over micro-batches and ranks."""

    terms: Mapping[str, float]
    """Loss of each term: weighted sum over units divided by the term's global denominator (nats)."""
    real_tokens: int
    computed_tokens: int

    @property
    def loss(self) -> float:
        return sum(self.terms.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Decoded model outputs of units, as numpy arrays; what metrics and `predict` read."""

    kind: Literal["single", "multi", "regression", "language", "embedding"]
    scores: np.ndarray
    """(U, C) float64: logits, numbers or embeddings; of language models (U, 2): nats of the true one, 1 if best."""
    probabilities: np.ndarray | None
    """(U, C) float64 softmax or sigmoid; None for regression and language models."""
    values: np.ndarray
    """(U,) int64 classes; multi-label (U, C) bool; numbers (U,) or (U, C) float64; of language models (U,) hits."""


# ---------------------------------------------------------------- what happened


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
                line |= {f"{'loss.' if name == 'terms' else ''}{key}": item for key, item in value.items()}
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


# ---------------------------------------------------------------- facts, which the plan reads


@dataclass(frozen=True, kw_only=True)
class HardwareFacts:
    """What the machine is and has."""

    device: str
    """`cpu`, `cuda:0`, `mps`."""
    device_name: str
    memory_bytes: int
    """Memory of the device that may be used now (free memory on CPU, honouring cgroup limits)."""
    cores: int
    """Cores that this process may use."""
    threads: int
    """Threads that torch uses inside an operation."""
    ranks: int = 1
    """Processes that train together."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the planner needs to know about a model."""

    family: str
    """`model_type` of the configuration."""
    parameters: int
    """All parameters, tied ones once."""
    trainable_parameters: int
    parameter_bytes: int
    hidden: int
    blocks: int
    """Block applications in a forward pass."""
    vocabulary: int
    max_positions: int | None
    blocks_bytes: int = 0
    """Part of `parameter_bytes` that lies in the blocks, those that are applied many times once."""
    largest_block_bytes: int = 0
    """Of one block's parameters."""


@dataclass(frozen=True, kw_only=True)
class LengthFacts:
    """The lengths of the training samples, in tokens."""

    samples: int
    tokens: int
    longest: int
    percentiles: Mapping[str, float]
    """`p10`, `p50`, `p90`, `p99`."""
    truncated_samples: int
    padding_share_random: float
    """Share of computed tokens that would be padding in random padded batches of 32."""


@dataclass(frozen=True, kw_only=True)
class ProbeFacts:
    """Whether the unpadded path gives the plain path's numbers on real samples."""

    packed_ok: bool
    reason: str
    """Why it is used, or why not; goes into the plan as it stands."""
    error: float | None
    """max|packed - padded| / max|padded| of the logits; None when it could not run."""
    samples: int


@dataclass(frozen=True, kw_only=True)
class CompileFacts:
    """What compiling gave, where it was tried."""

    ok: bool
    reason: str
    """What failed, when it is not ok."""
    seconds: float = 0.0
    """Time that compiling took."""
    eager_seconds_per_token: float = 0.0
    seconds_per_token: float = 0.0
    """Compiled, forward and backward."""


@dataclass(frozen=True, kw_only=True)
class ForwardFacts:
    """What was found out about ways to run the model."""

    last_block: ProbeFacts | None = None
    """Packed, with the last block for read tokens only, against padded; None: not tried."""
    attention_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds per token of each kernel that was tried, forward and backward, at best."""
    attention_failed: Mapping[str, str] = field(default_factory=dict)
    """Why a kernel cannot be used."""
    attention_expected: str = "sdpa"
    """The kernel that is used when none was timed."""
    embedding_rows: int = 0
    """Rows of trainable embeddings whose gradients can be added in place; 0: there are none."""
    drops_on_cpu: bool = False
    onednn_speed: float | None = None  # against torch's usual products; 0: nothing to gain; None: no choice
    recomputable_blocks: int = 0
    """Blocks that can compute their activations again."""
    compiled: CompileFacts | None = None  # None: not tried


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts:
    """Measured on a few real micro-batches, forward and backward."""

    seconds_per_token: float
    """Per computed token, forward, backward and its share of overhead."""
    seconds_per_update: float
    """Optimiser, clipping and bookkeeping of one update, whatever its size."""
    seconds_per_token_forward: float
    """Per token of a forward pass without gradient (evaluation)."""
    activation_bytes_per_token: float
    """Peak memory above the resting state, per computed token of a micro-batch."""
    resting_bytes: int
    """Resident memory of the process with model, data and libraries loaded, gradients and activations apart."""
    micro_tokens: int
    """The micro-batch size that was measured."""
    tried: Mapping[int, float] = field(default_factory=dict)
    """Seconds per computed token, forward and backward, at best, of every size that was tried."""
    peak_bytes: int = 0
    """Highest memory that measuring itself has reached, since process start; 0 when not known."""
    selective_bytes_per_token: float = 0.0
    """Part of the activations that matrix products and attention gave: what `recompute: selective` keeps."""
    evaluation_micro_tokens: int = 0
    """The fastest micro-batch of a forward pass without gradient; 0: as in training."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One line of the plan."""

    value: Any
    reason: str
    source: Literal["user", "default", "derived", "measured"]
    prediction: float | None = None
    unit: str | None = None

"""Facts that the plan reads: of the machine, the model, the data, and what was measured. Frozen plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


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
class SourceFacts:
    """One source of a mixture by share."""

    name: str
    samples: int
    share: float
    """Of what training draws; those of all sources sum to 1."""


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
    sources: tuple[SourceFacts, ...] = ()
    """Of a mixture by share, whose tokens and percentiles are those of as many draws as it has samples; else empty."""


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
    pattern: str = ""
    """Which tokens see which, and how many that is; empty: all see all."""
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

"""Peak memory as a sum of named parts.

::

    peak = process + parameters + gradients + optimiser state + replicas
         + max(activations + weight copies + kept weights + noise, update, evaluation + weight copies)

With AdamW in fp32 the middle three are 16 bytes a parameter: 5.4 GB for BERT-large's 335M.

Where ranks hold parts (`plan.mesh`), these three are divided, and what is at work is gathered for as long as it works::

    gathered = all outside the blocks + 4 x the largest block

that is the parameters outside the blocks, which stay gathered from the first forward to the end of the backward pass,
two blocks' parameters (torch's FSDP2 fetches the next one while a block computes), a block's gradient and its copy on
the way to the other ranks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bigbatch.facts import CalibrationFacts, ModelFacts
from bigbatch.rules.buckets import travelling_bytes

BYTES_PER_VALUE = 4
"""fp32."""
PROCESS_BYTES = 700 * 1024**2
"""Guess for Python with torch, transformers and the data loaded, when nothing was measured."""
ACTIVATION_BYTES_PER_HIDDEN = 66
"""Saved for the backward pass, per token, block and hidden unit, in fp32.

34 bytes in 16 bits (Korthikanti et al. 2022, section 4.1, without the attention matrix), of which 2 are
dropout masks of one byte: 2 x 32 + 2. A guess for other shapes than BERT's; the calibration measures it.
"""
SMALLEST_MICRO_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class MemoryBreakdown:
    """Predicted bytes on the device (of the process, on a CPU)."""

    process: int
    """What the process holds besides the model: interpreter, libraries, data."""
    parameters: int
    gradients: int
    optimizer_state: int
    activations: int
    """Of one micro-batch, forward and backward."""
    update: int
    """Temporary tensors of the optimiser's step; activations are gone by then."""
    evaluation: int
    """Of one micro-batch of a forward pass without gradient."""
    weight_copies: int = 0
    """Of the weights in a low number format, while a micro-batch runs; autocast makes them anew for each."""
    weights_kept: int = 0
    """Copies of the trained weights while micro-batches run (`gradient: sam`)."""
    replicas: int = 0
    """Weights, gradients and optimiser states of replicas that train apart, as far as they are not counted above."""
    noise_measurement: int = 0
    """Of the gradients of random parts, on updates whose noise is measured; gone before the optimiser's step."""
    travelling: int = 0
    """Copies of gradients on their way between ranks that hold whole models."""
    gathered: int = 0
    """Of whole parameters and gradients at work, where ranks hold parts of them."""
    returned: int = 0
    """Of gradients outside the blocks on their way to the ranks that hold them; activations are gone by then."""
    loading: int = 0
    """Of the whole model on the CPU before it is divided, where the CPU is the device too."""
    calibration: int = 0
    """Peak that measuring before the run has already reached, everything included."""

    @property
    def lasting_bytes(self) -> int:
        """What stays for the whole run, whatever the micro-batch."""
        model = self.parameters + self.gradients + self.optimizer_state + self.replicas
        return self.process + model + self.travelling

    @property
    def needed_bytes(self) -> int:
        """The largest sum that exists at one time."""
        return max(
            self.running_bytes + self.noise_measurement,
            self.lasting_bytes + self.update,
            self.process + self.loading,
        )

    @property
    def running_bytes(self) -> int:
        """While a micro-batch runs, in an update that is not measured."""
        passing = max(self.activations, self.evaluation, self.returned)
        return self.lasting_bytes + self.gathered + passing + self.weight_copies + self.weights_kept

    @property
    def peak_bytes(self) -> int:
        """Highest memory of the process from its start to the end of the run."""
        return max(self.needed_bytes, self.calibration)

    def parts(self) -> dict[str, int]:
        """The parts that are not zero, by name, in bytes."""
        return {name: size for name, size in asdict(self).items() if size}


@dataclass(frozen=True, kw_only=True)
class Division:
    """How ranks share one copy of the model (`plan.mesh`)."""

    shard: int = 1
    """Ranks that each keep a part of every parameter."""
    tensor: int = 1
    """Ranks that each compute a part of every product of a block."""
    on_cpu: bool = False
    """Whether the ranks compute on the CPU, where the whole model is loaded."""

    def share(self, model: ModelFacts) -> float:
        """Part of the parameters' bytes that one rank keeps."""
        blocks = model.blocks_bytes / max(1, model.parameter_bytes)
        return (blocks / self.tensor + 1 - blocks) / self.shard


def activation_bytes_per_token(model: ModelFacts, calibration: CalibrationFacts | None) -> float:
    """Measured, or guessed from the model's shape."""
    if calibration is not None:
        return calibration.activation_bytes_per_token
    return float(ACTIVATION_BYTES_PER_HIDDEN * model.hidden * model.blocks)


def predict_memory(
    model: ModelFacts,
    *,
    micro_tokens: int,
    optimizer_state_multiple: float,
    calibration: CalibrationFacts | None = None,
    temporary_multiple: float = 0.0,
    activation_bytes: float | None = None,
    weight_copies_bytes: int = 0,
    replicas: int = 0,
    outer: bool = False,
    division: Division = Division(),
    copies: int = 1,
    bitwise: bool = False,
    weights_kept: int = 0,
) -> MemoryBreakdown:
    """Peak memory of training, part by part.

    Args:
        model: sizes of the model.
        micro_tokens: computed tokens of the largest micro-batch (a longer sample counts in full).
        optimizer_state_multiple: fp32 tensors of state per trainable parameter (AdamW 2).
        calibration: what was measured; None: guesses.
        temporary_multiple: fp32 tensors per trainable parameter that the step needs for a moment (LAMB 2).
        activation_bytes: per token, when some are computed again; None: as measured, or guessed.
        weight_copies_bytes: of the weights in a low number format, beside the fp32 ones.
        replicas: that this rank computes in turn; 0: the model itself is trained.
        outer: whether the replicas have an outer optimiser: weights and momentum of its own.
        division: how ranks share the model.
        copies: ranks that hold the whole model and sum their gradients.
        bitwise: whether they sum in the order of a tree.
        weights_kept: copies of the trained weights while micro-batches run.
    """
    per_token = (
        activation_bytes_per_token(model, calibration) if activation_bytes is None else activation_bytes
    )
    resting = calibration.resting_bytes if calibration is not None else PROCESS_BYTES + model.parameter_bytes
    share = division.share(model)
    trained = model.trainable_parameters * BYTES_PER_VALUE * share
    sharded = division.shard > 1
    outside = model.parameter_bytes - model.blocks_bytes
    activations = round(per_token * micro_tokens)
    return MemoryBreakdown(
        process=max(0, resting - model.parameter_bytes),
        parameters=round(model.parameter_bytes * share),
        gradients=round(trained),
        optimizer_state=round(trained * optimizer_state_multiple),
        replicas=round(trained * _further(replicas, optimizer_state_multiple, outer)),
        activations=activations,
        update=round(trained * temporary_multiple),
        # Without gradients a block's tensors go when the next block has read them: two blocks at a time.
        evaluation=round(activations * min(1.0, 2 / max(1, model.blocks))),
        weight_copies=weight_copies_bytes,
        weights_kept=round(trained * weights_kept),
        travelling=travelling_bytes(round(trained), copies, bitwise=bitwise),
        gathered=outside + round(4 * model.largest_block_bytes / division.tensor) if sharded else 0,
        returned=outside if sharded else 0,
        loading=model.parameter_bytes if division.on_cpu and share < 1 else 0,
        calibration=calibration.peak_bytes if calibration is not None else 0,
    )


def _further(replicas: int, optimizer_state_multiple: float, outer: bool) -> float:
    """Tensors per trained parameter that replicas need: the model's own weights are their mean."""
    if not replicas:
        return 0.0
    return replicas + (replicas - 1) * (1 + optimizer_state_multiple) + (2 if outer else 0)


def largest_micro_tokens(
    breakdown: MemoryBreakdown, *, activation_bytes: float, below: int, longest: int, limit_bytes: int
) -> int | None:
    """The largest power of two under `below` that fits as `micro_tokens`; None when none does.

    Args:
        breakdown: of the plan that does not fit.
        activation_bytes: per computed token.
        below: the `micro_tokens` that does not fit.
        longest: tokens of the longest sample, which is computed alone however small the micro-batch.
        limit_bytes: what may be used.
    """
    size = 1 << (below - 1).bit_length()
    while size > SMALLEST_MICRO_TOKENS:
        size //= 2
        activations = max(activation_bytes * max(size, longest), breakdown.returned)
        running = breakdown.weight_copies + breakdown.weights_kept + breakdown.gathered + activations
        needed = breakdown.lasting_bytes + max(breakdown.update, running)
        if size < below and needed <= limit_bytes:
            return size
    return None

"""A shortcut is compared with the plain path on a few real samples before it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bigbatch.facts import ProbeFacts
from bigbatch.protocols import Forward
from bigbatch.samples import MicroBatch

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
_HALF_TOLERANCE = 2e-2
_ROUNDING_TOLERANCE = 1e-4
"""Largest fp32 difference that is accepted when fp64 shows that it is rounding."""
_ROUNDING_PROOF = 1e-8
"""Largest difference in fp64; a fault does not shrink with the precision, rounding does a billionfold."""


def probe_packing(
    packed_forward: Any,
    padded_forward: Any,
    micro_batches: Sequence[MicroBatch],
    *,
    gradient: bool = True,
) -> ProbeFacts:
    """Compare packed with padded: logits, and the gradient of a fixed random combination of them.

    max|a - b| / max|b| of the logits, ||a - b|| / ||b|| of the whole gradient, both at most 1e-5 in fp32
    (1e-10 in fp64, 2e-2 in half precision). A deep fp32 model may round more, up to 1e-4: it passes if the
    difference disappears in fp64. Runs in eval mode; weights, gradients, modes and generators are as before
    afterwards.

    Args:
        packed_forward: without padding.
        padded_forward: the plain way through the same module.
        micro_batches: a few real ones; each is run both ways.
        gradient: False compares the logits alone, for inference.

    Raises:
        Exception: what the padded path raises; a failure of the packed path is a reason not to use it.
    """
    module: nn.Module = padded_forward.module
    samples = sum(len(batch.lengths_B) for batch in micro_batches)
    with undisturbed(module, gradient=gradient):
        plain = outcome_of(padded_forward, module, micro_batches, gradient=gradient)
        try:
            found = _difference(outcome_of(packed_forward, module, micro_batches, gradient=gradient), plain)
            limit = _TOLERANCE.get(next(module.parameters()).dtype, _HALF_TOLERANCE)
            in_double = None
            if limit < found.worst <= _ROUNDING_TOLERANCE and _all_single(module):
                in_double = _in_double(
                    packed_forward, padded_forward, module, micro_batches, gradient=gradient
                )
        except Exception as error:  # whatever a model does with a pack, the padded path remains
            first = str(error).strip().partition("\n")[0]
            reason = f"padded: packing failed: {type(error).__name__}: {first}"
            return ProbeFacts(packed_ok=False, reason=reason, error=None, samples=samples)
    passed, reason = _verdict(found, limit, in_double, samples)
    return ProbeFacts(
        packed_ok=passed,
        reason=reason,
        error=found.logits if math.isfinite(found.logits) else None,
        samples=samples,
    )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one path gave."""

    logits_UC: Tensor
    gradient: list[Tensor]


@dataclass(frozen=True)
class _Difference:
    """Relative differences; infinite where they cannot be compared."""

    logits: float
    gradient: float

    @property
    def worst(self) -> float:
        return max(self.logits, self.gradient)


def _difference(packed: Outcome, plain: Outcome) -> _Difference:
    if packed.logits_UC.shape != plain.logits_UC.shape:
        raise ValueError(f"its logits have shape {tuple(packed.logits_UC.shape)}")
    pairs = zip(packed.gradient, plain.gradient, strict=True)
    return _Difference(
        logits=ratio_of((packed.logits_UC - plain.logits_UC).abs().max(), plain.logits_UC.abs().max()),
        gradient=ratio_of(norm_of([ours - theirs for ours, theirs in pairs]), norm_of(plain.gradient)),
    )


def _verdict(
    found: _Difference, limit: float, in_double: _Difference | None, samples: int
) -> tuple[bool, str]:
    """Whether packing is used, and the sentence for the plan."""
    if found.worst <= limit:
        return True, f"packed: {found.worst:.0e} of padded on {samples} real samples"
    if in_double is not None and in_double.worst <= _ROUNDING_PROOF:
        proof = f"rounding: {in_double.worst:.0e} in fp64"
        return True, f"packed: {found.worst:.0e} of padded on {samples} real samples ({proof})"
    if not math.isfinite(found.worst):
        return False, f"padded: logits or gradient of {samples} real samples are not finite"
    part = "logits" if found.logits >= found.gradient else "gradient"
    return (
        False,
        f"padded: packed {part} off by {found.worst:.1e} on {samples} real samples; allowed is {limit:.0e}",
    )


def _all_single(module: nn.Module) -> bool:
    """Whether every floating tensor is fp32, so that fp64 and back changes no bit."""
    tensors = [*module.parameters(), *module.buffers()]
    return all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())


def _in_double(
    packed_forward: Any,
    padded_forward: Any,
    module: nn.Module,
    micro_batches: Sequence[MicroBatch],
    *,
    gradient: bool,
) -> _Difference:
    """The same comparison in fp64; the module is fp32 again afterwards, every bit as before."""
    module.double()
    try:
        plain = outcome_of(padded_forward, module, micro_batches, gradient=gradient)
        return _difference(outcome_of(packed_forward, module, micro_batches, gradient=gradient), plain)
    finally:
        module.float()


def outcome_of(
    forward: Forward, module: nn.Module, micro_batches: Sequence[MicroBatch], *, gradient: bool
) -> Outcome:
    """Logits of all units, and (if asked for) the gradient of their sum weighted by fixed pseudo-random numbers.

    Args:
        forward: a way to run the model.
        module: the model, as it is: whoever calls sees to modes and precision.
        micro_batches: their units are those of the outcome, in this order.
        gradient: whether it is asked for.
    """
    trainable = [each for each in module.parameters() if each.requires_grad] if gradient else []
    summed: list[Tensor | None] = [None] * len(trainable)
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for batch in micro_batches:
        logits_UC = forward(batch)
        weights_UC = torch.randn(logits_UC.shape, generator=generator, dtype=torch.float64).to(logits_UC)
        if trainable:
            parts = torch.autograd.grad((logits_UC * weights_UC).sum(), trainable, allow_unused=True)
            summed = [_plus(total, part) for total, part in zip(summed, parts, strict=True)]
        outputs.append(logits_UC.detach())
    sums = [
        torch.zeros_like(parameter) if total is None else total
        for parameter, total in zip(trainable, summed, strict=True)
    ]
    return Outcome(torch.cat(outputs), sums)


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    return total if part is None else part if total is None else total + part


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all of them together, in fp64."""
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm() if tensors else torch.zeros(())


def ratio_of(difference: Tensor, scale: Tensor) -> float:
    """Difference / scale; 0 when both are (a head of zeros gives no logits and no gradient to its body)."""
    return float(difference / scale) if bool(scale != 0) else (0.0 if bool(difference == 0) else math.inf)


@contextmanager
def undisturbed(module: nn.Module, *, gradient: bool) -> Iterator[None]:
    """Eval mode inside; modes and generators are as before afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    devices = sorted({item.device.index for item in module.parameters() if item.device.type == "cuda"})
    module.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(gradient):
            yield
    finally:
        for part, training in modes:
            part.training = training

"""A shortcut is compared with the plain path on a few real samples before it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bigbatch.protocols import Forward
from bigbatch.records import MicroBatch, ProbeFacts

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
_HALF_TOLERANCE = 2e-2


def probe_packing(
    packed_forward: Any, padded_forward: Any, micro_batches: Sequence[MicroBatch]
) -> ProbeFacts:
    """Compare packed with padded: logits, and the gradient of a fixed random combination of them.

    max|a - b| / max|b| of the logits, ||a - b|| / ||b|| of the whole gradient, both at most 1e-5 in fp32
    (1e-10 in fp64, 2e-2 in half precision). Runs in eval mode; gradients, modes and generators are as
    before afterwards.

    Args:
        packed_forward: a PackedForward.
        padded_forward: a PaddedForward of the same module.
        micro_batches: a few real ones; each is run both ways.
    """
    module: nn.Module = padded_forward.module
    samples = sum(len(batch.lengths_B) for batch in micro_batches)
    try:
        with _undisturbed(module):
            plain = _outcome(padded_forward, module, micro_batches)
            packed = _outcome(packed_forward, module, micro_batches)
    except Exception as error:  # whatever a model does with a pack, the padded path remains
        first = str(error).strip().partition("\n")[0]
        reason = f"padded: packing failed: {type(error).__name__}: {first}"
        return ProbeFacts(packed_ok=False, reason=reason, error=None, samples=samples)
    limit = _TOLERANCE.get(next(module.parameters()).dtype, _HALF_TOLERANCE)
    return _verdict(plain, packed, limit, samples)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What one path gave."""

    logits_UC: Tensor
    gradient: list[Tensor]


def _verdict(plain: _Outcome, packed: _Outcome, limit: float, samples: int) -> ProbeFacts:
    if plain.logits_UC.shape != packed.logits_UC.shape:
        reason = f"padded: packed logits have shape {tuple(packed.logits_UC.shape)}"
        return ProbeFacts(packed_ok=False, reason=reason, error=None, samples=samples)
    error = _ratio((packed.logits_UC - plain.logits_UC).abs().max(), plain.logits_UC.abs().max())
    pairs = zip(packed.gradient, plain.gradient, strict=True)
    slope = _ratio(_norm([ours - theirs for ours, theirs in pairs]), _norm(plain.gradient))
    if not (math.isfinite(error) and math.isfinite(slope)):
        reason = f"padded: logits or gradient of {samples} real samples are not finite"
        return ProbeFacts(packed_ok=False, reason=reason, error=None, samples=samples)
    worst = max(error, slope)
    if worst <= limit:
        reason = f"packed: {worst:.0e} of padded on {samples} real samples"
    else:
        part = "logits" if error >= slope else "gradient"
        reason = f"padded: packed {part} off by {worst:.0e} on {samples} real samples; allowed is {limit:.0e}"
    return ProbeFacts(packed_ok=worst <= limit, reason=reason, error=error, samples=samples)


def _outcome(forward: Forward, module: nn.Module, micro_batches: Sequence[MicroBatch]) -> _Outcome:
    """Logits of all units, and the gradient of their sum weighted by fixed pseudo-random numbers."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradient = [torch.zeros_like(parameter) for parameter in trainable]
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for batch in micro_batches:
        logits_UC = forward(batch)
        weights_UC = torch.randn(logits_UC.shape, generator=generator, dtype=torch.float64).to(logits_UC)
        if trainable:
            parts = torch.autograd.grad((logits_UC * weights_UC).sum(), trainable, allow_unused=True)
            for total, part in zip(gradient, parts, strict=True):
                if part is not None:
                    total += part
        outputs.append(logits_UC.detach())
    return _Outcome(torch.cat(outputs), gradient)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm() if tensors else torch.zeros(())


def _ratio(difference: Tensor, scale: Tensor) -> float:
    """Difference / scale; 0 when both are (a head of zeros gives no logits and no gradient to its body)."""
    return float(difference / scale) if bool(scale != 0) else (0.0 if bool(difference == 0) else math.inf)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; modes and generators are as before afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    devices = sorted({item.device.index for item in module.parameters() if item.device.type == "cuda"})
    module.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training

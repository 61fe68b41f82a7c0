"""What a number format does to this model, block by block, on real samples: the precision audit.

One pass in fp32 and one in the format, forward and backward, over the same samples in eval mode. Shares of overflow
and underflow are those of the fp32 values: what the format could not say, wherever it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bigbatch.graph.casting import AUTOCAST
from bigbatch.graph.policy import Policy, Unit, units_of
from bigbatch.model.anatomy import Anatomy
from bigbatch.model.runner import Runner
from bigbatch.plan.precision import FORMATS, Format
from bigbatch.probe.stand_in import stand_in
from bigbatch.probe.watching import Seen, watch
from bigbatch.protocols import Losses
from bigbatch.samples import MicroBatch

_LARGE_FORWARD, _LARGE_GRADIENT = 0.05, 0.1
"""Relative errors above which a block is named; bf16 usually has about 0.01 in both."""
_VANISHED = 0.05
"""Share of gradients lost to zero above which a block is named."""
_LARGEST_SCALE = 2.0**16
_HEADROOM = 4.0
"""Factor by which gradients of other batches may be larger."""
_RANGE = 2.0**100
"""Formats that reach further have fp32's range and need no loss scale."""


@dataclass(frozen=True, kw_only=True)
class BlockAudit:
    """One part of the model: the embeddings, a block, the head."""

    block: str
    """Dotted name."""
    format: str
    """What it is computed in under the policy: the audited format, or `fp32`."""
    forward_error: float | None
    """||a - b|| / ||b|| of its output against fp32, what came before included; None: not finite."""
    gradient_error: float | None
    """The same of the gradient of its parameters; None: not finite, or nothing in it is trained."""
    overflow_share: float
    """Of its activations: larger than the format's largest number."""
    underflow_share: float
    """Of its activations: not zero, but zero in the format."""
    gradient_overflow_share: float
    """Of the gradients of its activations, multiplied by the loss scale."""
    gradient_underflow_share: float
    update_ratio: float
    """||w' - w|| / ||w|| of one update at the peak learning rate."""
    unmoved_share: float
    """Of its trained weights: one such update would not move them if they were kept in the format."""
    fine: bool
    verdict: str
    """In words."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All of it; `RUN/audit.json` is `to_json`."""

    format: str
    samples: int
    loss_scale: float
    """Power of two at which no gradient of these samples overflows: what a dynamic scale would find."""
    logits_error: float | None
    """max|a - b| / max|b|; None: not finite."""
    gradient_error: float | None
    """||a - b|| / ||b|| of the whole gradient; None: not finite."""
    blocks: tuple[BlockAudit, ...]
    verdict: str

    def to_json(self) -> dict[str, object]:
        """Plain JSON; shares and errors are fractions."""
        return {**asdict(self), "blocks": [asdict(block) for block in self.blocks]}


def audit(
    reference: Runner,
    forward: Runner,
    format: str,
    policy: Policy,
    parts: Anatomy,
    task: Losses,
    micro_batches: Sequence[MicroBatch],
    optimizer_factory: Callable[[nn.Module], Optimizer],
) -> Audit:
    """Audit a format on real samples. Weights, gradients and modes are as before afterwards.

    Args:
        reference: the fp32 path.
        forward: the same path in the format that is audited.
        format: its name.
        policy: what `forward` is run under.
        parts: anatomy of the model.
        task: gives loss and denominators.
        micro_batches: a few real ones.
        optimizer_factory: module -> the optimiser that training will use; given throw-away parameters.
    """
    module = reference.module
    units, limits = units_of(module, parts), FORMATS[format]
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.enable_grad():
            truth = watch(reference, module, units, task, micro_batches)
            scale = _loss_scale(
                max((found.largest for found in truth.gradients.values()), default=0.0), limits
            )
            with forward.span():
                found = watch(forward, module, units, task, micro_batches, scale=scale, sizes=False)
    finally:
        for part, training in modes:
            part.training = training
    blocks = []
    for unit in units:
        ratio, unmoved = _one_update(unit, truth, optimizer_factory, limits)
        kept = AUTOCAST.get(limits.name) is not None and not policy[unit.module]
        shares = _shares(unit, truth, limits, scale)
        block = BlockAudit(
            block=unit.name,
            format="fp32" if kept else limits.name,
            update_ratio=ratio,
            unmoved_share=unmoved,
            fine=True,
            verdict="",
            **_errors(unit, truth, found),
            **shares,
        )
        blocks.append(block)
    whole = Audit(
        format=limits.name,
        samples=sum(len(batch.lengths_B) for batch in micro_batches),
        loss_scale=scale,
        logits_error=_ratio((found.logits - truth.logits).abs().max(), truth.logits.abs().max()),
        gradient_error=_relative([(truth.gradient[key], found.gradient[key]) for key in truth.gradient]),
        blocks=tuple(_judged(blocks, limits)),
        verdict="",
    )
    return replace(whole, verdict=_overall(whole))


# ---------------------------------------------------------------- figures


def _loss_scale(largest: float, limits: Format) -> float:
    """1 for formats with fp32's range; else the largest power of two at which nothing overflows."""
    if limits.largest > _RANGE or largest == 0:
        return 1.0
    wanted = min(_LARGEST_SCALE, max(1.0, limits.largest / (_HEADROOM * largest)))
    return 2.0 ** math.floor(math.log2(wanted))


def _errors(unit: Unit, truth: Seen, found: Seen) -> dict[str, float | None]:
    outputs = list(zip(truth.outputs[unit.name], found.outputs[unit.name], strict=True))
    own = [parameter for parameter in unit.module.parameters() if parameter in truth.gradient]
    gradients = [(truth.gradient[parameter], found.gradient[parameter]) for parameter in own]
    return {"forward_error": _relative(outputs), "gradient_error": _relative(gradients) if own else None}


def _shares(unit: Unit, truth: Seen, limits: Format, scale: float) -> dict[str, float]:
    forward, backward = truth.activations[unit.name], truth.gradients[unit.name]
    # Half of the smallest number is rounded to zero.
    vanishing = limits.smallest / 2
    return {
        "overflow_share": forward.share_above(limits.largest),
        "underflow_share": forward.share_below(vanishing),
        "gradient_overflow_share": backward.share_above(limits.largest, scale),
        "gradient_underflow_share": backward.share_below(vanishing, scale),
    }


def _one_update(
    unit: Unit, truth: Seen, optimizer_factory: Callable[[nn.Module], Optimizer], limits: Format
) -> tuple[float, float]:
    """||w' - w|| / ||w||, and the share of weights that stay where they are in the format, after one real update."""
    named = {
        f"{unit.name}.{name}": parameter
        for name, parameter in unit.module.named_parameters()
        if parameter in truth.gradient
    }
    if not named:
        return 0.0, 0.0
    tried = stand_in({name: parameter.detach().clone() for name, parameter in named.items()})
    by_name = dict(tried.named_parameters())
    own, copies = list(named.values()), [by_name[name] for name in named]
    for copy, parameter in zip(copies, own, strict=True):
        copy.grad = truth.gradient[parameter].clone()
    optimizer = optimizer_factory(tried)
    optimizer.step()
    optimizer.state.clear()
    unmoved = sum(
        int((rounded(copy.detach(), limits) == rounded(parameter.detach(), limits)).sum())
        for copy, parameter in zip(copies, own, strict=True)
    )
    moved = _norm([copy.detach() - parameter.detach() for copy, parameter in zip(copies, own, strict=True)])
    size = _norm([parameter.detach() for parameter in own])
    return float(moved / size) if size > 0 else 0.0, unmoved / sum(parameter.numel() for parameter in own)


def rounded(values: Tensor, limits: Format) -> Tensor:
    """The values to the nearest number with the format's bits; range is another question."""
    mantissa, power = torch.frexp(values.float())
    steps = 2 / limits.eps
    return torch.ldexp((mantissa * steps).round() / steps, power)


def _relative(pairs: Sequence[tuple[Tensor, Tensor]]) -> float | None:
    return _ratio(_norm([theirs - ours for ours, theirs in pairs]), _norm([ours for ours, _ in pairs]))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm() if tensors else torch.zeros(())


def _ratio(difference: Tensor, size: Tensor) -> float | None:
    """None when something was not finite; 0 when both are."""
    found = float(difference / size) if bool(size != 0) else float(difference)
    return found if math.isfinite(found) else None


# ---------------------------------------------------------------- words


def _judged(blocks: Sequence[BlockAudit], limits: Format) -> list[BlockAudit]:
    """The blocks with their verdicts: causes are told from what they spoil before and behind them."""
    causes = []
    for index, block in enumerate(blocks):
        before = blocks[index - 1].forward_error if index else 0.0
        behind = blocks[index + 1].gradient_error if index + 1 < len(blocks) else 0.0
        causes.append("; ".join(_faults(block, before, behind, limits)))
    guilty = ", ".join(block.block for block, cause in zip(blocks, causes, strict=True) if cause)
    judged = []
    for block, cause in zip(blocks, causes, strict=True):
        kept = block.format == "fp32"
        if cause:
            advice = (
                "" if kept else f"; plan.precision.keep_fp32=['{block.block}', '{block.block}.*'] would help"
            )
            judged.append(replace(block, fine=False, verdict=cause + advice))
        elif block.forward_error is None or (guilty and block.gradient_error is None):
            judged.append(replace(block, verdict=f"not finite because of {guilty or 'a gradient behind it'}"))
        else:
            judged.append(replace(block, verdict="kept in fp32" if kept else "fine"))
    return judged


def _is_new(error: float | None, given: float | None, limit: float) -> bool:
    """Whether an error is large and clearly larger than the one that the block was handed, which it hands on."""
    return error is not None and given is not None and error > max(limit, 1.5 * given)


def _faults(block: BlockAudit, before: float | None, behind: float | None, limits: Format) -> list[str]:
    """What this block does wrong by itself, worst first; a part in fp32 only hands on what it was given.

    Args:
        block: to be judged.
        before: forward error of the part before it.
        behind: gradient error of the part behind it, from which gradients come.
        limits: the format.
    """
    if block.format == "fp32":
        return []
    found = []
    if block.overflow_share:
        found.append(f"{block.overflow_share:.2%} of its activations exceed {limits.largest:.3g}")
    elif block.forward_error is None and before is not None:
        found.append("its output is not finite")
    if block.gradient_overflow_share:
        found.append(f"{block.gradient_overflow_share:.2%} of its gradients overflow")
    if _is_new(block.forward_error, before, _LARGE_FORWARD):
        found.append(f"its output is {block.forward_error:.0%} off")
    # Its gradient needs a right input as much as a right gradient from behind.
    given = None if before is None or behind is None else max(before, behind)
    if _is_new(block.gradient_error, given, _LARGE_GRADIENT):
        found.append(f"its gradient is {block.gradient_error:.0%} off")
    if block.gradient_underflow_share > _VANISHED:
        found.append(f"{block.gradient_underflow_share:.0%} of its gradients vanish")
    return found


def _overall(found: Audit) -> str:
    bad = [block.block for block in found.blocks if not block.fine]
    lost = max((block.unmoved_share for block in found.blocks), default=0.0)
    weights = f"fp32 weights keep updates that {found.format} ones would lose for up to {lost:.0%} of a block"
    if found.logits_error is None or found.gradient_error is None:
        return f"{found.format} breaks this model, in {', '.join(bad) or 'its logits'}: not finite"
    errors = f"logits {found.logits_error:.1%} and gradient {found.gradient_error:.1%} off"
    if bad:
        return f"{found.format} is doubtful in {', '.join(bad)}: {errors}; {weights}"
    return f"{found.format} is fine: {errors}; {weights}"


_HEAD = (
    "block",
    "format",
    "output",
    "gradient",
    "over",
    "under",
    "grad over",
    "grad under",
    "unmoved",
    "verdict",
)


def audit_lines(found: Audit) -> list[str]:
    """The audit as a table for a terminal, one line a block, and the verdict."""
    rows = [_HEAD, *(_row(block) for block in found.blocks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    told = f"precision audit: {found.format} against fp32 on {found.samples} real samples"
    if found.loss_scale != 1:
        told += f", loss scale {found.loss_scale:g}"
    table = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return [told, *(line.rstrip() for line in table), f"verdict: {found.verdict}"]


def _row(block: BlockAudit) -> tuple[str, ...]:
    errors = [
        "–" if error is None else f"{error:.1e}" for error in (block.forward_error, block.gradient_error)
    ]
    shares = (
        block.overflow_share,
        block.underflow_share,
        block.gradient_overflow_share,
        block.gradient_underflow_share,
        block.unmoved_share,
    )
    return (block.block, block.format, *errors, *(f"{share:.1%}" for share in shares), block.verdict)

"""One forward and backward pass with eyes open: outputs of the parts, gradients, and sizes of what flows inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.graph.policy import Unit
from bigbatch.protocols import Forward, Losses
from bigbatch.samples import MicroBatch
from bigbatch.tasks.losses import shares_of

_LOWEST, _HIGHEST = -149, 128
"""Powers of two that bound an fp32 magnitude: 2^k > |x| >= 2^(k - 1)."""


@dataclass(eq=False)
class Sizes:
    """Magnitudes by power of two: any format and any loss scale can be asked about afterwards."""

    counts: Tensor = field(default_factory=lambda: torch.zeros(_HIGHEST - _LOWEST + 1, dtype=torch.int64))
    """How many numbers are bounded by 2^(index + lowest); zeros and what is not finite are not in it."""
    values: int = 0
    """All numbers, zeros too."""
    broken: int = 0
    """Numbers that are not finite."""

    def add(self, tensor: Tensor) -> None:
        """Count one tensor."""
        flat = tensor.detach().float().flatten()
        finite = flat[flat.isfinite()]
        _, powers = torch.frexp(finite[finite != 0])
        found = (powers.long().clamp(_LOWEST, _HIGHEST) - _LOWEST).cpu()
        self.counts += torch.bincount(found, minlength=len(self.counts))
        self.values += flat.numel()
        self.broken += flat.numel() - finite.numel()

    @property
    def largest(self) -> float:
        """A power of two that bounds every finite number; 0 when there is none."""
        at = self.counts.nonzero()
        return 2.0 ** (int(at.max()) + _LOWEST) if len(at) else 0.0

    def share_above(self, limit: float, scale: float = 1.0) -> float:
        """Share of numbers whose magnitude, times `scale`, is at least `limit` rounded up to a power of two."""
        over = self._bounds() / 2 * scale >= limit
        return (int(self.counts[over].sum()) + self.broken) / max(1, self.values)

    def share_below(self, limit: float, scale: float = 1.0) -> float:
        """Share of numbers that are not zero, and whose magnitude times `scale` is below `limit`, a power of two."""
        return int(self.counts[self._bounds() * scale <= limit].sum()) / max(1, self.values)

    def _bounds(self) -> Tensor:
        return torch.exp2(torch.arange(_LOWEST, _HIGHEST + 1, dtype=torch.float64))


@dataclass(eq=False)
class Seen:
    """What a pass gave."""

    logits: Tensor
    """(U, C) of all micro-batches."""
    gradient: dict[nn.Parameter, Tensor]
    """Of the mean loss, not scaled; trainable parameters only."""
    outputs: dict[str, list[Tensor]]
    """Unit -> its outputs, fp32, in order."""
    activations: dict[str, Sizes]
    """Unit -> outputs of the modules inside it that have no children."""
    gradients: dict[str, Sizes]
    """Unit -> gradients of those outputs, not scaled."""


def watch(
    forward: Forward,
    module: nn.Module,
    units: Sequence[Unit],
    task: Losses,
    micro_batches: Sequence[MicroBatch],
    *,
    scale: float = 1.0,
    sizes: bool = True,
) -> Seen:
    """Run the samples forward and backward.

    Args:
        forward: the path to watch.
        module: its model, in the mode that is wanted.
        units: parts to tell apart.
        task: gives loss and denominators.
        micro_batches: the samples.
        scale: of the loss in the backward pass; the gradients that come back are divided by it.
        sizes: whether magnitudes are counted, which takes longer than the pass itself.
    """
    named = [parameter for parameter in module.parameters() if parameter.requires_grad]
    total = {parameter: torch.zeros_like(parameter) for parameter in named}
    denominators = _denominators(task, micro_batches)
    seen = Seen(
        logits=torch.empty(0),
        gradient=total,
        outputs={unit.name: [] for unit in units},
        activations={unit.name: Sizes() for unit in units},
        gradients={unit.name: Sizes() for unit in units},
    )
    logits = []
    with _hooked(units, seen, sizes):
        for batch in micro_batches:
            output_UC = forward(batch)
            loss = _loss(task, output_UC, batch, denominators)
            if named:
                parts = torch.autograd.grad(loss * scale, named, allow_unused=True)
                for parameter, part in zip(named, parts, strict=True):
                    if part is not None:
                        total[parameter] += part / scale
            # In front of a vocabulary the hidden states stand for the logits.
            logits.append(getattr(output_UC, "hidden_UD", output_UC).detach())
    seen.logits = torch.cat(logits)
    return seen


@contextmanager
def _hooked(units: Sequence[Unit], seen: Seen, sizes: bool) -> Iterator[None]:
    handles = []
    try:
        for unit in units:
            handles.append(unit.module.register_forward_hook(_keeps(seen.outputs[unit.name])))
            for leaf in _leaves(unit.module) if sizes else ():
                hook = _counts(seen.activations[unit.name], seen.gradients[unit.name])
                handles.append(leaf.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keeps(outputs: list[Tensor]) -> Callable[..., None]:
    def hook(_part: nn.Module, _args: object, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        outputs.append(first.detach().float())

    return hook


def _counts(activations: Sizes, gradients: Sizes) -> Callable[..., None]:
    def hook(_part: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            activations.add(output)
            if output.requires_grad:
                output.register_hook(gradients.add)

    return hook


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if not any(True for _ in part.children())]


def _denominators(task: Losses, micro_batches: Sequence[MicroBatch]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for batch in micro_batches:
        for term, count in task.denominators(batch.targets).items():
            found[term] = found.get(term, 0.0) + count
    return found


def _loss(task: Losses, output_UC: Tensor, batch: MicroBatch, denominators: Mapping[str, float]) -> Tensor:
    # A copy: arrays of the token cache are memory-mapped and read-only, which torch does not take.
    targets = batch.targets.map(lambda values: torch.from_numpy(np.array(values)).to(output_UC.device))
    return torch.stack([*shares_of(task.loss(output_UC, targets), denominators).values()]).sum()

"""What is run to measure speed, memory and number formats where a loss needs a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from bigbatch.protocols import Losses
from bigbatch.samples import Targets
from bigbatch.tasks.base import Task


class SumOfOutputs:
    """A loss with a gradient for every output: any micro-batch can be run with it alone."""

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Outputs along one fixed direction, one value a unit (U,)."""
        del targets
        wide_UC = outputs.double() if outputs.dtype.itemsize == 8 else outputs.float()
        return {
            "sum": wide_UC @ torch.arange(outputs.shape[-1], device=outputs.device).to(wide_UC.dtype).sin()
        }

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Number of units (numpy)."""
        return {"sum": float(len(targets.weights))}


def measured_loss(task: Task) -> Losses:
    """The task itself, unless its loss needs a whole batch."""
    return SumOfOutputs() if task.couples == "batch" else task

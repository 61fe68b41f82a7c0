"""The plain executor of a forward, outside of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bigbatch.protocols import Forward, Losses
from bigbatch.step.executor import OneByOne, Passes, Plain

CPU = torch.device("cpu")


def one_by_one(
    forward: Forward,
    task: Losses,
    *,
    device: torch.device = CPU,
    seed: int = 0,
    in_place: Sequence[Tensor] = (),
) -> OneByOne:
    """One micro-batch behind the other, once forward and once backward."""
    return OneByOne(Plain(forward, task, device), Passes(device, seed, in_place=in_place))

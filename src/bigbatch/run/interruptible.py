"""A forward that can be left between two micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bigbatch.protocols import Forward
from bigbatch.run.beat import Beat
from bigbatch.samples import MicroBatch


@dataclass(frozen=True)
class Interruptible:
    """A forward that leaves an evaluation between two micro-batches once a signal came."""

    forward: Forward
    module: nn.Module
    poll: Callable[[], None]
    beat: Beat

    def __call__(self, micro_batch: MicroBatch) -> Tensor:
        self.poll()
        self.beat.tick()
        return self.forward(micro_batch)

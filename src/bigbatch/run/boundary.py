"""What the ranks tell each other at an update boundary, and where each may leave after a signal."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bigbatch.protocols import Forward, World
from bigbatch.records import Evaluate, Request, Save, Stop
from bigbatch.run.beat import Beat
from bigbatch.run.signals import Interrupted, SignalFlag
from bigbatch.samples import MicroBatch

_REQUESTS: dict[str, type[Stop] | type[Save] | type[Evaluate]] = {
    kind.__name__: kind for kind in (Stop, Save, Evaluate)
}


class Boundary:
    """Requests, rank 0's clock and signals: the same on every rank between two meetings."""

    def __init__(self, world: World, beat: Beat) -> None:
        self.requests: list[Request] = []
        """Asked for in this process and not yet agreed on."""
        self.agreed: list[Request] = []
        """Asked of rank 0, and known to every rank."""
        self.now = 0.0
        """Rank 0's clock when the ranks last met."""
        self.flag = SignalFlag()
        self._world = world
        self.beat = beat
        self._signals: list[tuple[int, int]] = []
        """(rank, signal) that it had been sent when the ranks last met."""

    def meet(self) -> None:
        """Every rank learns what rank 0 was asked for, what time it is there, and which ranks were sent a signal."""
        self.now = time.monotonic()
        if self._world.size > 1:
            self.beat.phase("waiting")
            mine = {"now": self.now, "requests": [[type(each).__name__, each.why] for each in self.requests]}
            everyone = self._world.gather({**mine, "signal": self.flag.requested})
            self.now = everyone[0]["now"]
            self.requests = [_REQUESTS[name](why) for name, why in everyone[0]["requests"]]
            self._signals = [(rank, said["signal"]) for rank, said in enumerate(everyone) if said["signal"]]
        self.agreed += self.requests
        self.requests = []

    def poll(self) -> None:
        """Leave after a signal, if there was one; several ranks at the same boundary, once all have heard of it.

        Raises:
            Interrupted: there was.
        """
        if self._world.size == 1:
            self.flag.poll()
        for rank, number in self._signals:
            found = signal.Signals(number)
            where = "" if rank == self._world.rank else f"rank {rank}: "
            raise Interrupted(found, f"{where}{found.name} was received")

    def poll_within(self) -> None:
        """Leave an update or an evaluation half-way: one process does so at once. Ranks finish it, since the others
        wait for this one in any case, unless that may take longer than `launch.grace` allows.

        Raises:
            Interrupted: after a signal.
        """
        if self._world.size == 1:
            self.flag.poll()
        else:
            self.flag.poll_late()


@dataclass(frozen=True)
class Interruptible:
    """A forward that leaves an evaluation between two micro-batches once a signal came."""

    forward: Forward
    module: nn.Module
    poll: Callable[[], None]
    beat: Beat

    def __call__(self, micro_batch: MicroBatch) -> Tensor:
        self.between()
        return self.forward(micro_batch)

    def between(self) -> None:
        """Leave here once a signal came; else go on, alive."""
        self.poll()
        self.beat.tick()

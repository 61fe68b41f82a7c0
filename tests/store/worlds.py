"""Several ranks as threads of one process: for agreements, where the numbers travel as JSON anyway."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from bigbatch.errors import PeerFailed
from bigbatch.parallel.single import SingleWorld


class ThreadWorld(SingleWorld):
    """Of a group of threads: `gather`, `share` and `barrier` are real; what is not JSON does not travel."""

    def __init__(self, rank: int, size: int, slots: list[Any], meeting: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._slots, self._meeting = slots, meeting

    def gather(self, value: Any) -> list[Any]:
        self._slots[self.rank] = json.dumps(value)
        self._meet()
        found = [json.loads(each) for each in self._slots]
        self._meet()
        return found

    def share(self, value: Any = None) -> Any:
        return self.gather(value if self.rank == 0 else None)[0]

    def barrier(self) -> None:
        self._meet()

    def die(self) -> None:
        """What the others see of a killed rank."""
        self._meeting.abort()

    def _meet(self) -> None:
        try:
            self._meeting.wait(20)
        except threading.BrokenBarrierError:
            raise PeerFailed("a rank is gone") from None


def in_threads(size: int, work: Callable[[ThreadWorld], Any]) -> list[Any]:
    """What `work` returned, or raised, on each rank."""
    slots: list[Any] = [None] * size
    found: list[Any] = [None] * size
    meeting = threading.Barrier(size)

    def run(rank: int) -> None:
        world = ThreadWorld(rank, size, slots, meeting)
        try:
            found[rank] = work(world)
        except BaseException as error:
            found[rank] = error
            if isinstance(error, Killed):
                world.die()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a rank hangs"
    return found


class Killed(BaseException):
    """The end of a rank that has no time to say anything."""

"""Accelerators do not notice that a rank has left: a collective of NCCL waits for it until its timeout.

So a rank that leaves writes that into the store through which the ranks found each other, and a thread of every other
rank, which looks there a few times a second, aborts the groups that its own rank may be inside of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


EVERY_SECONDS = 0.25


class Alarm:
    """One for each time that groups are opened; ranks that belong together count them alike."""

    def __init__(self, store: Store, number: int, rank: int, abort: Callable[[], None]) -> None:
        """Watch from now on.

        Args:
            store: of torch.distributed.
            number: of this opening.
            rank: this process.
            abort: lets this rank out of whatever it is inside of; called in the thread, at most once.
        """
        self._store, self._rank, self._abort = store, rank, abort
        self._key = f"bigbatch/left/{number}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bigbatch-alarm", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """This rank leaves."""
        self._store.set(self._key, str(self._rank))

    def close(self) -> None:
        """Watch no longer; once this returns, nothing is aborted any more."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            # A store that is gone is told by whoever needs it next.
            with suppress(RuntimeError):
                if self._store.check([self._key]):
                    self._abort()
                    return

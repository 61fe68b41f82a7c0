"""The next micro-batches are cut while the present ones are computed: one thread, a bounded lead, the same order.

Cutting takes about a millisecond an update. On a CPU that is a thousandth of the update, and a second busy thread
would cost more; an accelerator would stand still for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from bigbatch.data.batches import Batches
from bigbatch.samples import GlobalBatch, MicroBatch

Item = TypeVar("Item")
How = TypeVar("How")
"""How a batch is cut (`protocols.Cut`)."""

LEAD = 8
"""Micro-batches that may lie ready: enough for the start of the next update."""


class Ahead(Generic[Item]):
    """Iterates over something in a background thread, at most `lead` items ahead, in its order.

    What it raises is raised here, at the place in the order where it happened, with its own traceback. `close` ends
    the thread; what lies ready is dropped.
    """

    def __init__(self, source: Iterable[Item], lead: int) -> None:
        self._ready: deque[Item] = deque()
        self._changed = threading.Condition()
        self._lead = max(1, lead)
        self._ended = self._closed = False
        self._error: BaseException | None = None
        # A daemon: a second Ctrl-C ends the process whatever this thread does.
        self._thread = threading.Thread(target=self._fill, args=(source,), name="bigbatch-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """End the thread; it finishes the item that it is at. Doing it again changes nothing."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()
        self._ended = True

    def _fill(self, source: Iterable[Item]) -> None:
        try:
            for item in source:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Wait for room; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._lead)
            if not self._closed:
                self._ready.append(item)
                self._changed.notify_all()
            return not self._closed


class Supply(Generic[How]):
    """Global batches and their micro-batches, in order, cut ahead or when they are asked for.

    Asking for anything but the next update (after running out of memory, say) starts anew from there. The result is
    the same either way: cuts depend on lengths and budget alone.
    """

    def __init__(
        self,
        batches: Batches,
        cut: Callable[[GlobalBatch, How], Iterable[MicroBatch]],
        *,
        last_update: int,
        lead: int = 0,
    ) -> None:
        """Nothing is cut yet.

        Args:
            batches: the global batches of the run.
            cut: (global batch, how) -> its micro-batches; called in the background thread if there is one.
            last_update: nothing is cut behind it.
            lead: micro-batches that may lie ready; 0 cuts each when it is asked for, without a thread.
        """
        self._batches = batches.twin() if lead else batches  # its cache of orders belongs to one thread
        self._cut = cut
        self._last_update = last_update
        self._lead = lead
        self._ahead: Ahead[Any] | None = None
        self._next: tuple[int, int, How, int | None] | None = None

    def at(
        self, position: int, update: int, how: How, samples: int | None = None
    ) -> tuple[GlobalBatch, Iterator[MicroBatch]]:
        """The batch of an update, and its micro-batches.

        Args:
            position: samples consumed before it.
            update: 1-based number.
            how: it is cut.
            samples: of this batch, where the run decides it; None: as `batches` says.
        """
        if not self._lead:
            batch = self._batches.at(position, update, samples)
            return batch, iter(self._cut(batch, how))
        if self._ahead is None or self._next != (position, update, how, samples):
            self.close()
            self._ahead = Ahead(self._stream(position, update, how, samples), self._lead)
        self._next = None
        ahead = self._ahead
        batch = next(ahead)
        return batch, self._pieces(ahead, batch, how, samples)

    def close(self) -> None:
        """End the background thread."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = self._next = None

    def _stream(self, position: int, update: int, how: How, samples: int | None) -> Iterator[Any]:
        """Batch, its micro-batches, None; the next batch, …"""
        while update <= self._last_update:
            batch = self._batches.at(position, update, samples)
            yield batch
            yield from self._cut(batch, how)
            yield None
            position, update = position + batch.samples, update + 1

    def _pieces(
        self, ahead: Ahead[Any], batch: GlobalBatch, how: How, samples: int | None
    ) -> Iterator[MicroBatch]:
        for piece in ahead:
            if piece is None:
                break
            yield piece
        # Only once all were taken: a batch that was left half-way is begun anew.
        self._next = (batch.first_position + batch.samples, batch.update + 1, how, samples)

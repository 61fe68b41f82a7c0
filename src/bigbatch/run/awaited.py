"""Before an update of a run on a stream: its shards are here on every rank, or the run waits, and says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from bigbatch.build.parts import Parts
from bigbatch.data.streamed import shelf_of
from bigbatch.parallel.agree import together
from bigbatch.protocols import World
from bigbatch.records import Event, Record
from bigbatch.run.beat import Beat
from bigbatch.run.boundary import Boundary
from bigbatch.run.ramp import Growth
from bigbatch.store.progress import Progress
from bigbatch.units import show_seconds

_LOOK_SECONDS = 0.2
_TOLD_SECONDS = 2.0


class Waiting(Protocol):
    """What is asked here of what lies between two updates."""

    parts: Parts
    progress: Progress
    world: World
    boundary: Boundary
    beat: Beat


@contextmanager
def streaming(parts: Parts) -> Iterator[None]:
    """Inside, shards may be brought ahead; none is afterwards."""
    try:
        yield
    finally:
        shelf = shelf_of(parts.train)
        if shelf is not None:
            shelf.close()


def before_update(between: Waiting, growth: Growth) -> Iterator[Record]:
    """What there is to say before an update: a batch that grows, and shards that were waited for."""
    yield from growth.by_position()
    yield from awaited(between, growth.samples())


def awaited(between: Waiting, samples: int | None) -> Iterator[Event]:
    """Wait until the shards of the next update are on this machine, and on those of all other ranks.

    Args:
        between: of the run.
        samples: of the next batch, where the run decides it; None: as the recipe says.

    Raises:
        Leaving: a signal came, here or on another rank.
        DataError: a shard is not the one that the index names, or is gone.
        MachineError: the store cannot be reached, after all attempts.
    """
    parts, progress = between.parts, between.progress
    shelf, batches, world = shelf_of(parts.train), parts.batches, between.world
    if shelf is None:
        return
    position = progress.position
    shards = batches.shards_at(position, samples)
    shelf.seek(shards, lambda: batches.shards_from(position))

    def look() -> list[int]:
        between.boundary.flag.poll()
        between.beat.tick()
        found = shelf.missing(shards)
        if found:
            shelf.wait(_LOOK_SECONDS)
        return found

    began, told = time.monotonic(), False
    while True:
        mine = together(world, look)
        if not any(row[0] for row in world.exchange([float(len(mine))])):
            break
        if not told and time.monotonic() - began > _TOLD_SECONDS:
            told = True
            names = ", ".join(shelf.index.shards[shard]["file"] for shard in mine[:3])
            why = (
                f"{names} of {shelf.index.shown} {'is' if len(mine) == 1 else 'are'} still on the way"
                if mine
                else "another rank waits for shards"
            )
            did = f"waits before update {progress.update + 1}; Ctrl-C is safe"
            yield Event(step=progress.update, event="waiting_for_data", why=why, did=did)
    if told:
        why = f"shards of {shelf.index.shown} were {show_seconds(time.monotonic() - began)} on the way"
        yield Event(step=progress.update, event="data_came", why=why, did="goes on")

"""The loop: an iterator of records. It decides the order; `run.between` does what lies between two updates.

cut -> update -> record -> evaluate? -> checkpoint? -> requests?      until the samples are used up
"""

from __future__ import annotations

from collections.abc import Iterator

from bigbatch.parallel.agree import OutOfMemory
from bigbatch.protocols import Strategy
from bigbatch.records import Record
from bigbatch.run.between import Between
from bigbatch.step.loss_scale import GradientOverflow


def loop(strategy: Strategy, between: Between) -> Iterator[Record]:
    """Every record from here on, in order, already written to the journal.

    Raises:
        Leaving: a signal came, here or on another rank; the weights are those of the last update boundary.
        Diverged: `guard.patience` updates in a row were not finite.
        DoesNotFit: even the smallest micro-batch ran out of memory.
    """
    yield from between.first()
    while not between.over():
        between.check()
        yield from between.ramp()
        batch, pieces = between.next_batch()
        rates = between.rates(batch)
        strategy.resume()  # before every update: between two the module is in the caller's hands
        try:
            records = strategy.update(batch, pieces, rates)
        except OutOfMemory as error:  # the split is free: halve it, write the plan, do the update again
            yield between.shrunk(error)
            continue
        except GradientOverflow:  # at a smaller loss scale
            yield from between.news()
            continue
        for record in records:
            yield from between.noted(record, batch)
        yield from between.evaluations()
        yield from between.checkpoints()
        yield from between.requests()
    yield from between.last()

"""`epochs: auto`: the cool-down of the learning rate begins when validation no longer improves beyond chance.

Evaluations are paired row by row (`rules.paired`) with the best so far, by the figure that steers and by the loss; as
long as either improves, training goes on at the peak rate. The decision is a function of the evaluations, and part of
every checkpoint: a run that was killed comes to the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bigbatch.build.defined import of_judged
from bigbatch.build.parts import Parts
from bigbatch.infer.evaluate import EvalResult
from bigbatch.metrics.watched import figure_of
from bigbatch.records import Event
from bigbatch.rules.clocks import Length
from bigbatch.rules.first_run import PATIENCE, cool_down_end
from bigbatch.rules.schedules import in_samples
from bigbatch.run.choice import compared, shown_p, stopping_metric
from bigbatch.store.progress import Progress

if TYPE_CHECKING:
    from bigbatch.store.keeper import Keeper


PLATEAU = "plateau"
"""Begin of the names of the row scores that a checkpoint holds."""


class Plateau:
    """What a loop asks about its end; where that is fixed, answers that change nothing."""

    def __init__(self, parts: Parts, progress: Progress) -> None:
        self._parts, self._progress = parts, progress
        follow(parts, progress)

    def see(self, results: Mapping[str, EvalResult], keeper: Keeper) -> list[Event]:
        """Compare an evaluation with the best so far; the event that the cool-down begins."""
        parts, progress = self._parts, self._progress
        if not parts.clocks.open_end or progress.cool_down is not None or not progress.update:
            return []
        if not _at_peak(parts, progress.position):
            return []
        stale, told = self._compared(results, stopping_metric(parts))
        stopping = parts.recipe.early_stopping
        if stale < max(1, PATIENCE if stopping is None else stopping.patience.amount):
            return []
        end = self._end()
        if end >= parts.clocks.length.samples:
            return []
        progress.cool_down = [progress.position, end]
        shorten(parts, progress)
        keeper.write_plan(parts.plan)
        return [
            Event(
                step=progress.update,
                event="plateau",
                why=told,
                did=f"cools the learning rate down to {_low(parts)} until update "
                f"{parts.clocks.length.updates:,}: {parts.clocks.length.epochs:.3g} epochs in all",
                details={"updates": parts.clocks.length.updates, "samples": parts.clocks.length.samples},
            )
        ]

    def _compared(self, results: Mapping[str, EvalResult], name: str) -> tuple[int, str]:
        """Evaluations in a row without an improvement, and what this one said."""
        progress = self._progress
        # Both of the split that steers, whatever else is evaluated.
        split, figure = figure_of(name, self._parts.judged)
        improved, said, judged = False, list[str](), of_judged(results)
        for each in dict.fromkeys((figure, "loss")):
            kept, now_N = f"{PLATEAU}.{each}", judged[split].scores.get(each)
            if now_N is None or not len(now_N):  # rows have no part in it
                continue
            found = compared(progress.scores.get(kept), now_N)
            improved = improved or found is None or found.plausible
            if found is not None:
                said.append(f"{each} {found.difference:+.3g} (p {shown_p(found.p)})")
            if found is None or found.difference > 0:
                progress.scores[kept] = now_N
        progress.stale_plateau = 0 if improved else progress.stale_plateau + 1
        return (
            progress.stale_plateau,
            f"no more than chance since the best so far, row by row: {', '.join(said)}",
        )

    def _end(self) -> int:
        """Samples at which a cool-down that begins here ends."""
        parts, position = self._parts, self._progress.position
        decay = parts.recipe.schedule.decay
        if decay.unit == "percent":
            return math.ceil(cool_down_end(position, min(decay.amount / 100, 0.9)))
        batch = parts.clocks.length.samples / parts.clocks.length.updates
        scale = {"updates": batch, "samples": 1.0, "epochs": float(len(parts.train))}
        return position + math.ceil(in_samples("schedule.decay", decay, scale))


def _low(parts: Parts) -> str:
    share = parts.recipe.schedule.final_fraction
    return f"{share:g} of its peak" if share else "0"


def _at_peak(parts: Parts, position: int) -> bool:
    """Whether the rate neither rises nor falls any more: before and after, a plateau says nothing."""
    return parts.clocks.schedule.factor_at(_clock(parts, position)) >= 1


def follow(parts: Parts, progress: Progress) -> None:
    """Lay the schedule as the run so far decided: a second rise after a cool-down that was given up, the next end."""
    if progress.warm_again is not None:
        # Else the rate would jump from where it had cooled down to, to its peak.
        parts.clocks.schedule = replace(
            parts.clocks.schedule, again_from=float(_clock(parts, progress.warm_again))
        )
    if progress.cool_down is not None:
        shorten(parts, progress)


def _clock(parts: Parts, position: int) -> int:
    """A position on the clock of the schedule."""
    return parts.batches.tokens_before(position) if parts.clocks.clock == "tokens" else position


def shorten(parts: Parts, progress: Progress) -> None:
    """End the run where its cool-down does, on whole batches; length, schedule, ramp and plan change.

    Called in the middle of a cool-down, it finds the same end.
    """
    assert progress.cool_down is not None
    start, end = progress.cool_down
    position, updates = progress.position, progress.update
    if parts.clocks.ramp is None:
        while position < end:
            position, updates = parts.batches.next_position(position), updates + 1
    elif position < end:
        # Whole batches of the first size: the last one takes what is left.
        first, now = parts.clocks.ramp.sizes[0], parts.clocks.ramp.sizes[progress.batch_stage]
        left = math.ceil((end - position) / first) * first
        position, updates = position + left, updates + math.ceil(left / now)
    total, begun = _clock(parts, position), _clock(parts, start)
    parts.clocks.schedule = replace(
        parts.clocks.schedule, total_samples=float(total), decay_samples=float(total - begun)
    )
    if parts.clocks.ramp is not None:
        parts.clocks.ramp = replace(parts.clocks.ramp, total_samples=position)
    parts.clocks.length = Length(
        updates=updates,
        samples=position,
        epochs=position / len(parts.train),
        exact=parts.clocks.ramp is None,
        warnings=parts.clocks.length.warnings,
    )
    parts.tell_length()

"""`epochs: auto`: the cool-down of the learning rate begins when validation no longer improves beyond chance.

Evaluations are paired row by row (`rules.paired`) with the best so far, by the figure that steers and by the loss; as
long as either improves, training goes on at the peak rate. The decision is a function of the evaluations, and part of
every checkpoint: a run that was killed comes to the same one.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bigbatch.infer.evaluate import EvalResult
from bigbatch.records import Event
from bigbatch.rules.clocks import Length
from bigbatch.rules.first_run import PATIENCE, cool_down_end
from bigbatch.rules.paired import PLAUSIBLE, paired
from bigbatch.rules.schedules import in_samples
from bigbatch.run.build import Parts
from bigbatch.run.progress import Progress
from bigbatch.run.watched import figure_of

if TYPE_CHECKING:
    from bigbatch.run.keeper import Keeper


class Plateau:
    """What a loop asks about its end; where that is fixed, answers that change nothing."""

    def __init__(self, parts: Parts, progress: Progress) -> None:
        self._parts, self._progress = parts, progress
        if progress.cool_down is not None:
            shorten(parts, progress)

    def see(self, results: Mapping[str, EvalResult], keeper: Keeper) -> list[Event]:
        """Compare an evaluation with the best so far; the event that the cool-down begins."""
        parts, progress = self._parts, self._progress
        if not parts.open_end or progress.cool_down is not None or not progress.update:
            return []
        if not _at_peak(parts, progress.position):
            return []
        split, figure = figure_of(self._steering(), parts.validation)
        stale, told = self._compared(results[split], dict.fromkeys((figure, "loss")))
        stopping = parts.recipe.early_stopping
        if stale < max(1, PATIENCE if stopping is None else stopping.patience.amount):
            return []
        end = self._end()
        if end >= parts.length.samples:
            return []
        progress.cool_down = [progress.position, end]
        shorten(parts, progress)
        keeper.write_plan(parts.plan)
        return [
            Event(
                step=progress.update,
                event="plateau",
                why=told,
                did=f"cools the learning rate down to {parts.recipe.schedule.final_fraction:g} of its peak until "
                f"update {parts.length.updates:,}: {parts.length.epochs:.3g} epochs in all",
                details={"updates": parts.length.updates, "samples": parts.length.samples},
            )
        ]

    def _steering(self) -> str:
        stopping = self._parts.recipe.early_stopping
        return (stopping.metric if stopping else None) or self._parts.best_metric or "loss"

    def _compared(self, result: EvalResult, figures: Mapping[str, None]) -> tuple[int, str]:
        """Evaluations in a row without an improvement, and what this one said."""
        kept = self._progress.plateau
        best: dict[str, str] = kept.setdefault("best", {})
        improved, said = not best, []
        for figure in figures:
            # As they are kept: a resume must find what this process finds.
            now_N = np.asarray(result.scores[figure], np.float32)
            then_N = _unpacked(best[figure]) if figure in best else None
            if then_N is None or len(then_N) != len(now_N):
                best[figure] = _packed(now_N)
                improved = True
                continue
            found = paired(then_N, now_N)
            improved = improved or found.p <= PLAUSIBLE
            said.append(f"{figure} {found.difference:+.3g} (p = {found.p:.2f})")
            if found.difference > 0:
                best[figure] = _packed(now_N)
        kept["stale"] = 0 if improved else int(kept.get("stale", 0)) + 1
        return kept["stale"], f"no more than chance since the best so far, row by row: {', '.join(said)}"

    def _end(self) -> int:
        """Samples at which a cool-down that begins here ends."""
        parts, position = self._parts, self._progress.position
        decay = parts.recipe.schedule.decay
        if decay.unit == "percent":
            return math.ceil(cool_down_end(position, min(decay.amount / 100, 0.9)))
        batch = parts.length.samples / parts.length.updates
        scale = {"updates": batch, "samples": 1.0, "epochs": float(len(parts.train))}
        return position + math.ceil(in_samples("schedule.decay", decay, scale))


def _at_peak(parts: Parts, position: int) -> bool:
    """Whether the rate neither rises nor falls any more: before and after, a plateau says nothing."""
    done = parts.batches.tokens_before(position) if parts.clock == "tokens" else position
    return parts.schedule.factor_at(done) >= 1


def shorten(parts: Parts, progress: Progress) -> None:
    """End the run where its cool-down does, on whole batches; length, schedule, ramp and plan change.

    Called in the middle of a cool-down, it finds the same end.
    """
    assert progress.cool_down is not None
    start, end = progress.cool_down
    position, updates = progress.position, progress.update
    if parts.ramp is None:
        while position < end:
            position, updates = parts.batches.next_position(position), updates + 1
    elif position < end:
        # Whole batches of the first size: the last one takes what is left.
        first, now = parts.ramp.sizes[0], parts.ramp.sizes[progress.batch_stage]
        left = math.ceil((end - position) / first) * first
        position, updates = position + left, updates + math.ceil(left / now)
    by_tokens = parts.clock == "tokens"
    total = parts.batches.tokens_before(position) if by_tokens else position
    begun = parts.batches.tokens_before(start) if by_tokens else start
    parts.schedule = replace(parts.schedule, total_samples=float(total), decay_samples=float(total - begun))
    if parts.ramp is not None:
        parts.ramp = replace(parts.ramp, total_samples=position)
    parts.length = Length(
        updates=updates,
        samples=position,
        epochs=position / len(parts.train),
        exact=parts.ramp is None,
        warnings=parts.length.warnings,
    )
    parts.tell_length()


def _packed(scores_N: np.ndarray) -> str:
    return base64.b64encode(np.asarray(scores_N, "<f4").tobytes()).decode()


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")

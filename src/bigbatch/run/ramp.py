"""A ramp while it runs: the size of the next batch, and what moves it."""

from __future__ import annotations

from bigbatch.build.parts import Parts
from bigbatch.records import Event, Update
from bigbatch.rules.noise_scale import interval_of
from bigbatch.rules.ramp import Ramp
from bigbatch.run.events import batch_grown
from bigbatch.store.progress import Progress


class Growth:
    """What a loop asks about the batch; without a ramp, answers that change nothing."""

    def __init__(self, parts: Parts, progress: Progress) -> None:
        self._parts, self._progress = parts, progress

    @property
    def _ramp(self) -> Ramp | None:
        return self._parts.clocks.ramp

    def over(self) -> bool:
        """Whether all samples of the run are used up."""
        if self._ramp is not None:
            return self._progress.position >= self._parts.clocks.length.samples
        return self._progress.update >= self._parts.clocks.length.updates

    def samples(self) -> int | None:
        """Samples of the next batch, where a ramp decides it."""
        if self._ramp is None:
            return None
        return self._ramp.samples(self._progress.position, self._progress.batch_stage)

    def by_position(self) -> list[Event]:
        """Go to the size that holds from here on; an event when it is another one."""
        ramp, progress = self._ramp, self._progress
        if ramp is None:
            return []
        return self._go(
            ramp.stage(progress.position, progress.batch_stage), f"batch.ramp by {ramp.by}: {ramp}"
        )

    def by_noise(self, record: Update) -> list[Event]:
        """What the noise of an update that was measured says; at once, so that a checkpoint knows it."""
        ramp, progress = self._ramp, self._progress
        if ramp is None or ramp.marks is not None or "noise_scale" not in record.noise:
            return []
        known = interval_of(progress.noise)
        low = None if known is None else known.low
        stage, progress.batch_votes = ramp.after_measurement(progress.batch_stage, progress.batch_votes, low)
        why = f"the noise scale is at least {low or 0:,.0f} samples (95 %), and was so the time before"
        return self._go(stage, why)

    def _go(self, stage: int, why: str) -> list[Event]:
        progress = self._progress
        if stage == progress.batch_stage:
            return []
        before, progress.batch_stage = progress.batch_stage, stage
        return [batch_grown(self._parts, progress, before, why)]

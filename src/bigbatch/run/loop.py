"""The loop: an iterator of records. It decides when; `step` does what.

    cut -> update -> record -> evaluate? -> checkpoint? -> requests?      until the samples are used up
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from bigbatch.data.packs import micro_batches
from bigbatch.errors import DoesNotFit
from bigbatch.infer.evaluate import EvalResult, evaluate
from bigbatch.probe.hardware import peak_memory_bytes
from bigbatch.protocols import Observer
from bigbatch.records import Eval, Evaluate, Event, Record, Request, Save, Stop, Update
from bigbatch.rules.clocks import Clock, mark_crossed
from bigbatch.run.build import Parts
from bigbatch.run.keeper import Keeper
from bigbatch.run.progress import Best, Progress
from bigbatch.run.signals import Interrupted
from bigbatch.step.executor import OutOfMemory
from bigbatch.step.update import apply_update

SMALLEST_MICRO_TOKENS = 16
"""Halving stops here: below it, memory is not the micro-batch's doing."""


class Loop:
    """Runs updates until the recipe's length is reached, someone asks to stop, or a signal comes."""

    def __init__(
        self, parts: Parts, keeper: Keeper, progress: Progress, observers: Sequence[Observer] = ()
    ) -> None:
        """Take over where `progress` says.

        Args:
            parts: everything built from recipe and plan.
            keeper: writes what must survive.
            progress: zero, or what a checkpoint held.
            observers: called with every record; may ask for a stop, a save or an evaluation.
        """
        self.parts = parts
        self.keeper = keeper
        self.progress = progress
        self.requests: list[Request] = []
        self.results: dict[str, EvalResult] = {}
        """Latest full evaluation of each split."""
        self.exit_reason = "completed"
        self._observers = tuple(observers)
        self._last_checkpoint = time.monotonic()

    # ------------------------------------------------------------ the iterator

    def records(self) -> Iterator[Record]:
        """Every record of the run from here on, in order, already written to the journal.

        Raises:
            Interrupted: a signal came; the state is that of the last update boundary.
            Diverged: `guard.patience` updates in a row were not finite.
            DoesNotFit: even the smallest micro-batch ran out of memory.
        """
        parts, progress = self.parts, self.progress
        while progress.update < parts.length.updates and not self._stopped():
            before = self._clock()
            try:
                record = self._update()
            except OutOfMemory as error:
                yield self._emit(self._shrink(error))
                continue
            progress.after_update(record)
            yield self._emit(record)
            if record.skipped:
                yield self._emit(self._skipped(record))
                parts.guard.observe(record)
            else:
                parts.guard.observe(record)
            if self._due_evaluation(before):
                yield from self._evaluate_all()
            if self._due_checkpoint():
                yield self._emit(self._save("checkpoint_every"))
            yield from self._serve_requests()
        if not progress.final_eval and parts.validation:
            yield from self._evaluate_all()
        if self.keeper.saved_update != progress.update:
            yield self._emit(self._save("end of training"))

    def _emit(self, record: Record) -> Record:
        self.keeper.journal.append(record)
        self.progress.journal_records += 1
        for observer in self._observers:
            request = observer(record)
            if request is not None:
                self.requests.append(request)
        return record

    # ------------------------------------------------------------ one update

    def _update(self) -> Update:
        parts, progress = self.parts, self.progress
        batch = parts.batches.at(progress.position, progress.update + 1)
        pieces = micro_batches(batch, parts.train, micro_tokens=parts.micro_tokens, packing=parts.packing)
        lr = parts.learning_rate(batch.first_position, batch.samples, batch.tokens, progress.tokens)
        return apply_update(parts.step, batch, pieces, lr=lr, tokens_before=progress.tokens)

    def _shrink(self, error: OutOfMemory) -> Event:
        parts = self.parts
        smaller = parts.micro_tokens // 2
        if smaller < SMALLEST_MICRO_TOKENS:
            raise DoesNotFit(
                f"out of memory even with micro-batches of {parts.micro_tokens} tokens ({error}); "
                "what would fit: a smaller model, a shorter data.max_length, or a machine with more memory"
            ) from error
        event = Event(
            step=self.progress.update,
            event="out_of_memory",
            why=str(error).splitlines()[0] if str(error) else "the device has no memory left",
            did=f"halved plan.micro_tokens to {smaller} and replays the update",
            details={"micro_tokens_before": parts.micro_tokens, "micro_tokens": smaller},
        )
        parts.shrink(smaller)
        self.keeper.write_plan(parts.plan)
        return event

    def _skipped(self, record: Update) -> Event:
        first = record.samples - record.batch_samples
        ids, _ = self.parts.batches.stream_ids(first, record.batch_samples)
        return Event(
            step=record.step,
            event="nonfinite",
            why=f"loss {record.loss}, gradient norm {record.grad_norm}",
            did="skipped the update: weights and optimiser state are as before, the clock went on",
            details={"sample_ids": [int(sample) for sample in ids]},
        )

    # ------------------------------------------------------------ evaluation

    def _evaluate_all(self) -> Iterator[Record]:
        progress = self.progress
        for split in self.parts.validation:
            yield self._emit(self.evaluate_split(split))
        progress.evaluations += 1
        improved = self._note_best()
        if improved:
            yield self._emit(self._save("best so far"))

    def evaluate_split(self, split: str) -> Eval:
        """Evaluate one split with the weights as they are; the full result stays in `results`."""
        parts = self.parts
        table = parts.tables[split]
        result = evaluate(
            parts.forward,
            parts.task,
            table,
            parts.metrics,
            micro_tokens=parts.micro_tokens,
            packing=parts.packing,
        )
        self.results[split] = result
        record = Eval(
            step=self.progress.update,
            split=split,
            loss=result.loss,
            metrics=result.metrics,
            seconds=result.seconds,
            samples_per_second=result.samples / max(result.seconds, 1e-9),
        )
        self.progress.after_evaluation(record, result.samples)
        self.progress.peak_memory_bytes = max(self.progress.peak_memory_bytes, peak_memory_bytes())
        return record

    def _note_best(self) -> bool:
        """Remember the best evaluation and what early stopping waits for; True when this one is the best."""
        progress, recipe = self.progress, self.parts.recipe
        stopping = recipe.early_stopping
        if stopping is not None:
            value = self._watched(stopping.metric)
            if better(value, progress.stop_best, self.parts.larger_is_better(stopping.metric), stopping.min_delta):
                progress.stop_best, progress.stale_evaluations = value, 0
                progress.stale_since = progress.update
            else:
                progress.stale_evaluations += 1
        name = self.parts.best_metric
        if name is None:
            return False
        value = self._watched(name)
        previous = progress.best.value if progress.best else None
        if not better(value, previous, self.parts.larger_is_better(name), 0.0):
            return False
        progress.best = Best(metric=name, value=value, step=progress.update)
        return True

    def _watched(self, name: str) -> float:
        """`f1_macro` of the first validation set, or `hard.f1_macro` of a named one."""
        split, _, metric = name.rpartition(".")
        key = f"validation.{split}" if split else next(iter(self.parts.validation))
        return float(self.progress.final_eval[key].get(metric, math.nan))

    # ------------------------------------------------------------ what is due

    def _clock(self) -> Clock:
        progress = self.progress
        return Clock(
            updates=progress.update,
            samples=progress.position,
            tokens=progress.tokens,
            epochs=progress.position / len(self.parts.train),
        )

    def _due_evaluation(self, before: Clock) -> bool:
        if not self.parts.validation:
            return False
        at_end = self.progress.update >= self.parts.length.updates
        return at_end or mark_crossed(self.parts.recipe.run.evaluate_every, before, self._clock())

    def _due_checkpoint(self) -> bool:
        every = self.parts.recipe.run.checkpoint_every
        if self.keeper.saved_update == self.progress.update or every.unit in ("never", "end"):
            return False
        if every.unit == "s":
            return time.monotonic() - self._last_checkpoint >= every.amount
        saved = self.keeper.saved_clock
        return mark_crossed(every, saved, self._clock())

    def _stopped(self) -> bool:
        for request in self.requests:
            if isinstance(request, Stop):
                return True
        stopping = self.parts.recipe.early_stopping
        if stopping is None or not self.progress.evaluations:
            return False
        if stopping.patience.unit == "evaluations":
            done = self.progress.stale_evaluations >= stopping.patience.amount
        else:
            done = self.progress.update - self.progress.stale_since >= stopping.patience.amount
        if done:
            self.exit_reason = f"early stopping: {stopping.metric} has not improved for {stopping.patience}"
        return done

    def _serve_requests(self) -> Iterator[Record]:
        for request in list(self.requests):
            if isinstance(request, Stop):
                self.exit_reason = request.why
                yield self._emit(self._event("stopped", request.why, "stops at this update boundary"))
                return
            self.requests.remove(request)
            if isinstance(request, Save):
                yield self._emit(self._save(request.why))
            elif isinstance(request, Evaluate) and self.parts.validation:
                yield self._emit(self._event("evaluation_requested", request.why, "evaluates now"))
                yield from self._evaluate_all()

    def _save(self, why: str) -> Event:
        event = self._event("checkpoint", why, "saved a checkpoint")
        # The event is written after the save: count it, so that a resume from this checkpoint keeps it out.
        path = self.keeper.save(self.parts, self.progress, self._clock())
        self._last_checkpoint = time.monotonic()
        return replace(event, details={"path": path.name})

    def _event(self, event: str, why: str, did: str, **details: Any) -> Event:
        return Event(step=self.progress.update, event=event, why=why, did=did, details=details)


def better(value: float, previous: float | None, larger_is_better: bool, min_delta: float) -> bool:
    """Whether `value` beats `previous` by more than `min_delta`; NaN never does."""
    if math.isnan(value):
        return False
    if previous is None:
        return True
    return value > previous + min_delta if larger_is_better else value < previous - min_delta


__all__ = ["Interrupted", "Loop", "better"]

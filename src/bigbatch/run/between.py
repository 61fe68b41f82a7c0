"""What happens between two updates: records are noted, evaluations and checkpoints are made, requests are served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from bigbatch.build.defined import Missing, look
from bigbatch.build.parts import Parts
from bigbatch.errors import DoesNotFit, MachineError
from bigbatch.infer.evaluate import EvalResult, evaluate
from bigbatch.parallel.agree import Leaving, OutOfMemory, alone, memory_errors, together, was_agreed
from bigbatch.probe.hardware import peak_memory_bytes
from bigbatch.protocols import Forward, Observer, Rates
from bigbatch.records import Eval, Evaluate, Event, Record, Save, Stop, Update
from bigbatch.rules.clocks import Clock, mark_crossed
from bigbatch.run import rate_test
from bigbatch.run.awaited import before_update
from bigbatch.run.baseline import kept as baselines
from bigbatch.run.beat import NO_BEAT, Beat
from bigbatch.run.boundary import Boundary, Interruptible
from bigbatch.run.choice import note_best, note_for_stopping, scored_figures, stopping_metric
from bigbatch.run.evaluated import records_of
from bigbatch.run.events import empty, skipped
from bigbatch.run.forecast import Forecast
from bigbatch.run.guard import Guard
from bigbatch.run.plateau import Plateau
from bigbatch.run.ramp import Growth
from bigbatch.run.samples import Texts
from bigbatch.run.signals import SignalFlag
from bigbatch.samples import GlobalBatch, MicroBatch
from bigbatch.step.again import Again
from bigbatch.step.ahead import LEAD, Supply
from bigbatch.store.keeper import Keeper
from bigbatch.store.progress import Progress
from bigbatch.units import Quantity

SMALLEST_MICRO_TOKENS = 16
"""Halving stops here: below it, memory is not the micro-batch's doing."""


class Between:
    """Says whether a further update is due, and does everything around it (`run.loop.loop` is the order)."""

    def __init__(
        self,
        parts: Parts,
        keeper: Keeper,
        progress: Progress,
        guard: Guard,
        *,
        observers: Sequence[Observer] = (),
        side_events: list[Event] | None = None,
        first_events: Sequence[Event] = (),
        first_save: str | None = None,
        check: Callable[[], None] = lambda: None,
        beat: Beat = NO_BEAT,
        texts: Texts | None = None,
    ) -> None:
        """Take over where `progress` says.

        Args:
            parts: everything built from recipe and plan.
            keeper: writes what must survive.
            progress: zero, or what a checkpoint held.
            guard: ends the run when nothing is finite any more.
            observers: called with every record; may ask for a stop, a save or an evaluation.
            side_events: where observers leave what went wrong in them.
            first_events: what starting had to say; the first records.
            first_save: why a checkpoint must hold these events before anything else happens.
            check: called at each update boundary; raises when the run directory is no longer ours.
            beat: told what this rank is doing.
            texts: of evaluations.
        """
        self.parts = parts
        self.keeper = keeper
        self.progress = progress
        self.guard = guard
        self.world = parts.strategy.world
        self.boundary = Boundary(self.world, beat)
        self._missing: list[Missing] = []
        self.results: dict[str, EvalResult] = {}
        """Latest full evaluation of each split, with the weights that the module holds."""
        self.exit_reason = progress.stopped or "completed"
        self._observers = tuple(observers)
        self._side_events = side_events if side_events is not None else []
        self._first_events = tuple(first_events)
        self._first_save = first_save
        self._check = check
        self.beat = beat
        self._last_checkpoint = 0.0
        self.texts = texts or Texts(parts, keeper.directory, self.world)
        self._growth = Growth(parts, progress)
        self._plateau = Plateau(parts, progress)
        self._forecast = Forecast(parts, progress)
        self.supply = Supply(
            parts.batches,
            parts.strategy.pieces,
            last_update=parts.clocks.length.updates,
            # On a CPU the cutting would take a core from the computing, and it is a thousandth of an update.
            lead=0 if parts.hardware.device == "cpu" else LEAD,
        )

    def watch(self, flag: SignalFlag) -> None:
        """Leave at the next micro-batch once this flag is raised."""
        self.boundary.flag = flag

    # ------------------------------------------------------------ the iterator

    def first(self) -> Iterator[Record]:
        """What starting had to say, and what a kill left undone."""
        self.boundary.meet()
        self._last_checkpoint = self.boundary.now
        yield from map(self.emit, self._first_events)
        if self._first_save:
            yield self.emit(self.save(self._first_save))
        yield from self.evaluations()
        yield from self.requests()
        yield from self._tested_rate()

    def _tested_rate(self) -> Iterator[Record]:
        """Before update 1: the learning rate that `auto` leaves open; the plan that says so is durable before it."""
        updates = rate_test.wanted(self.parts) if self.progress.update == 0 else 0
        while updates:
            try:
                why = rate_test.settle_rate(self.parts, updates, self.watched)
            except OutOfMemory as error:
                yield self.emit(self.shrink(error, "the test of the learning rate"))
                continue
            self.keeper.write_plan(self.parts.plan)
            lr = self.parts.recipe.optimizer.lr
            yield self.emit(self._event("rate_test", why, f"trains with optimizer.lr {lr:g}", lr=lr))
            return

    def over(self) -> bool:
        """Whether no further update is due: all samples are used up, or somebody asked for an end."""
        return self._growth.over() or self._stopped()

    def check(self) -> None:
        """Before an update: a signal leaves here; the directory is still ours.

        Raises:
            Leaving: a signal came, here or on another rank.
        """
        self.boundary.poll()
        alone(self.world, self._check)
        self._before = self.clock()

    def ramp(self) -> Iterator[Record]:
        """A batch that grows from here on; and what it needs of a stream is here."""
        yield from map(self.emit, before_update(self, self._growth))

    def next_batch(self) -> tuple[GlobalBatch, Iterable[MicroBatch]]:
        """The batch of the next update, and this rank's micro-batches of it, watched."""
        progress, parts = self.progress, self.parts
        batch, pieces = alone(
            self.world,
            lambda: self.supply.at(progress.position, progress.update + 1, parts.cut, self._growth.samples()),
        )
        self.results.clear()  # they are of weights that are about to move
        self.beat.at(batch.update, "accumulate")
        return batch, self.watched(pieces)

    def watched(self, pieces: Iterable[MicroBatch]) -> Again:
        """The micro-batches, as often as they are walked, unless a signal drops the update half-way."""

        def look() -> None:
            self.boundary.poll_within()
            self.beat.tick()

        return Again(
            pieces,
            at_start=self.parts.strategy.sources.begin,
            before_each=look,
            at_end=lambda: self.beat.phase("reduce"),
        )

    def rates(self, batch: GlobalBatch) -> Rates:
        """What the update of this batch goes by."""
        parts, progress = self.parts, self.progress
        stage = progress.batch_stage
        lr = alone(self.world, lambda: parts.learning_rate(batch.first_position, batch.samples, stage))
        return Rates(lr=lr, tokens_before=progress.tokens, moments=parts.moments(stage))

    def noted(self, record: Update, batch: GlobalBatch) -> Iterator[Record]:
        """An update is behind us. Everything is booked before the first record is given away: a checkpoint of this
        boundary must know it, whenever the caller leaves.

        Raises:
            Diverged: `guard.patience` updates in a row were not finite.
        """
        progress = self.progress
        record = self.parts.noted(record, batch, progress)
        progress.after_update(record)
        self.boundary.meet()
        larger = self._growth.by_noise(record)
        progress.evaluation_due = self._growth.over() or self._crossed(
            self.parts.recipe.run.evaluate_every, self._before
        )
        yield self.emit(record)
        yield from map(self.emit, self._forecast.news(record))
        yield from map(self.emit, larger)
        if record.skipped or record.empty:
            yield self.emit((skipped if record.skipped else empty)(record, batch))
        yield from self.news()
        self.guard.see(record)

    def news(self) -> Iterator[Record]:
        """What happened inside the way to train."""
        yield from map(self.emit, self.parts.strategy.events())

    def last(self) -> Iterator[Record]:
        """Why the run stopped, the last evaluation, the last checkpoint."""
        progress = self.progress
        yield from self._say_stop()
        # What is kept is held against the final weights, whenever the run was asked to end.
        progress.evaluation_due = progress.evaluated_update != progress.update
        yield from self.evaluations()
        if self.keeper.saved_update != progress.update:
            yield self.emit(self.save("end of training"))

    def emit(self, record: Record) -> Record:
        """Write a record to the journal and show it to the observers."""
        self.keeper.journal.append(record)
        self.progress.journal_records += 1
        for observer in self._observers:
            request = observer(record)
            if request is not None:
                self.boundary.requests.append(request)
        return record

    # ------------------------------------------------------------ out of memory

    def shrunk(self, error: OutOfMemory) -> Record:
        """The update is done again, in smaller pieces.

        Raises:
            DoesNotFit: even the smallest ran out of memory.
        """
        return self.emit(self.shrink(error, f"update {self.progress.update + 1}"))

    def shrink(self, error: OutOfMemory, during: str, *, evaluation: bool = False) -> Event:
        """Halve the micro-batch; the plan is durable before the work is done again.

        Args:
            error: what the device said.
            during: the work that is done again, for the event.
            evaluation: whether evaluations alone are cut smaller.
        """
        before = self.parts.evaluation_micro_tokens if evaluation else self.parts.micro_tokens
        smaller = before // 2
        why = str(error).partition("\n")[0] or "the device has no memory left"
        if smaller < SMALLEST_MICRO_TOKENS:
            raise DoesNotFit(
                f"out of memory even with micro-batches of {before} tokens ({why}); "
                "what would fit: a smaller model, a shorter data.max_length, or a machine with more memory"
            ) from error
        self.parts.shrink(smaller, f"{before} tokens ran out of memory at {during}", evaluation=evaluation)
        self.keeper.write_plan(self.parts.plan)
        return self._event(
            "out_of_memory",
            why,
            f"halves plan.micro_tokens to {smaller} and does {during} again",
            micro_tokens_before=before,
            micro_tokens=smaller,
        )

    # ------------------------------------------------------------ evaluation

    def evaluations(self, *, requested: bool = False) -> Iterator[Record]:
        """Evaluate the validation splits if that is due; all of them, or none is recorded.

        One that was requested does not count for early stopping: whoever watches must not change the result.
        """
        progress = self.progress
        if not (progress.evaluation_due and self.parts.validation):
            progress.evaluation_due = False
            return
        self.boundary.poll()
        self.texts.due = self.texts.wanted(progress.evaluations, self.over())
        found = [record for split in self.parts.validation for record in self.evaluate_split(split)]
        yield from map(self.emit, found)
        yield from map(self.emit, self.texts.samples(progress.update))
        progress.evaluation_due = False
        if not requested:
            yield from look(self, self._missing)
            yield from self._baseline()
            progress.evaluations += 1
            progress.evaluated_update = progress.update
            note_for_stopping(self.parts, progress, self.results)
            yield from map(self.emit, self._plateau.see(self.results, self.keeper))
        if not requested and note_best(self.parts, progress, self.results):
            yield self.emit(self.save("best so far"))

    def _baseline(self) -> Iterator[Record]:
        """The run held against simple models, with the first evaluation."""
        if self.progress.evaluations or not baselines.wanted(self.parts):
            return
        self.beat.phase("waiting")
        said = baselines.told(self.parts, self.keeper.directory, self.world, self.progress.update)
        if said is not None:
            yield self.emit(said)

    def evaluate_split(self, split: str) -> list[Eval]:
        """Evaluate one split with the weights as they are, and its sources; the full result stays in `results`."""
        parts = self.parts
        parts.strategy.settle()
        forward = Interruptible(parts.forward, parts.module, self.boundary.poll_within, self.beat)
        self.beat.phase("evaluate")
        while True:
            try:
                result = together(self.world, lambda: self._evaluated(forward, split))
                break
            except OutOfMemory as error:
                self._side_events.append(self.shrink(error, f"the evaluation of {split}", evaluation=True))
        self.results[split] = result
        peak = max(self.progress.peak_memory_bytes, peak_memory_bytes(parts.hardware.device))
        self.progress.peak_memory_bytes = peak
        return records_of(result, split, self.progress)

    def _evaluated(self, forward: Forward, split: str) -> EvalResult:
        parts = self.parts
        with memory_errors():
            return evaluate(
                forward,
                parts.task,
                parts.tables[split],
                parts.metrics,
                micro_tokens=parts.evaluation_micro_tokens,
                packing=parts.packing,
                world=self.world,
                writes=self.texts.due,
                sources=parts.source_names,
                scored={*scored_figures(parts, split), *baselines.scored_figures(parts, split)},
            )

    # ------------------------------------------------------------ what is due

    def clock(self) -> Clock:
        """How far the run is."""
        return self.progress.clock(self.boundary.now)

    def _crossed(self, every: Quantity, before: Clock) -> bool:
        parts = self.parts
        return mark_crossed(
            every,
            before,
            self.clock(),
            epoch_samples=len(parts.train),
            total_samples=parts.clocks.length.samples,
        )

    def checkpoints(self) -> Iterator[Record]:
        """A checkpoint, if one is due."""
        if self._checkpoint_due():
            yield self.emit(self.save("checkpoint_every"))

    def _checkpoint_due(self) -> bool:
        every = self.parts.recipe.run.checkpoint_every
        if self.keeper.saved_update == self.progress.update:
            return False
        if every.unit == "s":
            return self.boundary.now - self._last_checkpoint >= every.amount
        return self._crossed(every, self.keeper.saved_clock)

    def _stopped(self) -> bool:
        if self.progress.stopped is not None or any(
            isinstance(request, Stop) for request in self.boundary.agreed
        ):
            return True
        stopping = self.parts.recipe.early_stopping
        if stopping is None:
            return False
        if self.progress.target_reached:
            why = f"target reached: {stopping_metric(self.parts)} {stopping.target:g}"
        elif not self.parts.clocks.open_end and self.progress.stale_evaluations >= max(
            stopping.patience.amount, 1
        ):
            why = f"early stopping: {stopping_metric(self.parts)} has not improved for {stopping.patience}"
        else:
            return False
        self.boundary.agreed.append(Stop(why))
        return True

    def requests(self) -> Iterator[Record]:
        """Saves and evaluations that were asked for; a stop stays, for the loop to see."""
        yield from self.failures_beside()
        self.boundary.meet()
        waiting = self.boundary.agreed
        self.boundary.agreed = [request for request in waiting if isinstance(request, Stop)]
        for request in waiting:
            if isinstance(request, Save):
                yield self.emit(self.save(request.why))
            elif isinstance(request, Evaluate) and self.parts.validation:
                yield self.emit(self._event("evaluation_requested", request.why, "evaluates now"))
                self.progress.evaluation_due = True
                yield from self.evaluations(requested=True)
        if waiting:
            self.boundary.meet()  # what watched these may have asked for a stop

    def _say_stop(self) -> Iterator[Record]:
        """Why the run ends here, when somebody asked it to: whenever that was, the first one counts."""
        request = next((request for request in self.boundary.agreed if isinstance(request, Stop)), None)
        if request is None or self.progress.stopped is not None:
            return
        self.progress.stopped = self.exit_reason = request.why
        yield self.emit(self._event("stopped", request.why, "stops at this update boundary"))
        # Also over a checkpoint of this boundary: that one would train on.
        yield self.emit(self.save(request.why))

    def failures_beside(self) -> Iterator[Record]:
        """Records of what went wrong in observers, and of evaluations that had to be cut smaller."""
        while self._side_events:
            yield self.emit(self._side_events.pop(0))

    # ------------------------------------------------------------ checkpoints and events

    def save(self, why: str) -> Event:
        """Write a checkpoint of this update boundary."""
        self.beat.phase("save")
        self.parts.strategy.settle()
        held = self.parts.strategy.state()
        held = replace(held, facts={**held.facts, "guard": self.guard.to_state()})
        path = self.keeper.save(held, self.progress, self.clock())
        self._last_checkpoint = self.boundary.now
        return self._event("checkpoint", why, f"saved {path.name}")

    def save_interrupted(self, interruption: Leaving) -> Record:
        """After a signal: the last boundary, if it is not saved yet."""
        did = f"the same command goes on after update {self.progress.update}"
        record = self.emit(self._event("interrupted", str(interruption), did))
        if self.keeper.saved_update != self.progress.update:
            self.save(str(interruption))
        return record

    def save_failed(self, error: Exception) -> None:
        """The last boundary, if every rank is still there: what was trained until then is not lost with the error."""
        if not was_agreed(error) or self.keeper.saved_update == self.progress.update:
            return
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        did = f"saves the last update: the same command goes on after update {self.progress.update}"
        with suppress(MachineError):  # the error itself is what is told
            self.emit(self._event("failed", why, did))
            self.save(why)

    def _event(self, event: str, why: str, did: str, **details: object) -> Event:
        return Event(step=self.progress.update, event=event, why=why, did=did, details=details)

"""One model and the thread that runs it: gather what waits, run it as one batch, answer.

The oldest request waits `wait_seconds` at most for others of its kind; those that came while the model was busy wait no
longer. They run together as long as their tokens fit one micro-batch. What is wrong with a request is found when it is
read, before it meets others; where a batch fails all the same, each of it runs alone.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeGuard

from bigbatch.data.tokens import as_table
from bigbatch.errors import BigbatchError
from bigbatch.infer.generate import BATCH
from bigbatch.infer.load import Loaded
from bigbatch.infer.predict import samples_of
from bigbatch.infer.quick import FEWEST_SAMPLES, Quick
from bigbatch.infer.unlabelled import rows_of_object
from bigbatch.serve.figures import Figures
from bigbatch.serve.heap import Holes
from bigbatch.serve.limits import Limits
from bigbatch.serve.queue import Job, Queue
from bigbatch.serve.refusals import too_late
from bigbatch.serve.work import Predicting, Work, Writing, predicted, written

_WORDS = ("the", "a", "of", "it", "was", "not", "good", "at", "all", "times", "and", "we", "said")
Say = Callable[[str], object]


class Engine:
    """A model that answers."""

    def __init__(self, name: str, opened: Loaded, limits: Limits, figures: Figures, say: Say) -> None:
        """Start its thread; `wait_until_ready` says when it answers.

        Args:
            name: of the model.
            opened: the model; nobody else uses it from here on.
            limits: of requests.
            figures: that it counts in.
            say: told of what should not happen.
        """
        self.name, self.opened, self.limits = name, opened, limits
        self.queue: Queue[Work] = Queue(limits.queue_rows)
        self.way = ""
        """How it runs: `packed` or `padded`; empty: as each table asks for."""
        self._figures, self._say = figures, say
        self._ready = Event()
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name=f"bigbatch-{name}", daemon=True)
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Return when it answers.

        Raises:
            Exception: whatever came in its way.
        """
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def close(self, seconds: float) -> bool:
        """Answer what waits, take nothing more, end; whether it has ended.

        Args:
            seconds: that it gets.
        """
        self.queue.close()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            holes = Holes()
            with self._in_one_way():
                self._ready.set()
                while (first := self.queue.first()) is not None:
                    jobs = self._gathered(first)
                    if jobs:
                        self._answer(jobs)
                    holes.give_back()
        except Exception as error:
            self._error = error
            self._ready.set()
            self.queue.abandon()

    @contextmanager
    def _in_one_way(self) -> Iterator[None]:
        """Packs for whatever comes, once they have given the plain path's outputs; models that write stay as they are:
        what packs them would be in the way.
        """
        opened, forward = self.opened, self.opened.forward
        texts = [
            " ".join(_WORDS[(row + at) % len(_WORDS)] for at in range(1 + row % 48))
            for row in range(FEWEST_SAMPLES)
        ]
        if opened.task.head.kind in ("causal", "seq2seq") or not isinstance(forward, Quick):
            yield
            return
        try:
            role = next(
                name for name, role in opened.task.roles.items() if role.is_read and role.kind == "text"
            )
            rows = list(rows_of_object([{role: text} for text in texts], roles=opened.task.roles, columns={}))
            samples = [
                each for each in samples_of(rows, opened.task, opened.tokenizer, forward) if each is not None
            ]
            table = opened.task.fixed(as_table(samples, opened.task.sequences, opened.task.prepare))
        except (BigbatchError, StopIteration):  # it reads no bare texts: each table decides
            yield
            return
        with forward.held(table) as self.way:
            yield

    def _gathered(self, first: Job[Work]) -> list[Job[Work]]:
        """Encoded jobs that run together."""
        most = self.opened.micro_tokens * (BATCH if isinstance(first.work, Writing) else 1)
        until, jobs, tokens, rows = first.arrived + self.limits.wait_seconds, [], 0, 0
        job: Job[Work] | None = first
        while job is not None:
            own = self._encoded(job)
            if own is not None and jobs and tokens + own > most:
                self.queue.back(job)
                break
            if own is not None:
                jobs.append(job)
                tokens, rows = tokens + own, rows + job.rows
            if tokens >= most:
                break
            job = self.queue.more(first.kind, until, self.limits.queue_rows - rows)
        self._figures.gathered(self.name, len(jobs), rows, tokens)
        return jobs

    def _encoded(self, job: Job[Work]) -> int | None:
        """Tokens of a job; None: it has its answer already."""
        if job.over:
            job.tell(too_late(self.limits.deadline_seconds))
            return None
        try:
            return job.work.encode(self.opened)
        except Exception as error:
            self._failure(job, error)
            return None

    def _answer(self, jobs: Sequence[Job[Work]]) -> None:
        started = time.perf_counter()
        try:
            self._work(jobs)
        except Exception as error:
            if len(jobs) == 1:
                self._failure(jobs[0], error)
                return
            for job in jobs:
                self._answer([job])
            return
        seconds = time.perf_counter() - started
        self.queue.ran(sum(job.rows for job in jobs), seconds)
        self._figures.ran(self.name, seconds)

    def _work(self, jobs: Sequence[Job[Work]]) -> None:
        if _are_predictions(jobs):
            predicted(self.opened, jobs)
        elif _are_texts(jobs):
            written(self.opened, jobs)

    def _failure(self, job: Job[Work], error: Exception) -> None:
        if not isinstance(error, BigbatchError):
            self._say(f"{self.name}: a request failed:\n{''.join(traceback.format_exception(error))}")
        job.tell(error)


def _are_predictions(jobs: Sequence[Job[Work]]) -> TypeGuard[Sequence[Job[Predicting]]]:
    return isinstance(jobs[0].work, Predicting)


def _are_texts(jobs: Sequence[Job[Work]]) -> TypeGuard[Sequence[Job[Writing]]]:
    return isinstance(jobs[0].work, Writing)

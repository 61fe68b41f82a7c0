"""A run as Python sees it: an iterator of records that can be asked to stop, save or evaluate."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import cached_property
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bigbatch.build.parts import Parts
from bigbatch.documents import readable
from bigbatch.errors import BigbatchError, GateMissed, RunLocked, UsageError
from bigbatch.frames import each_said_plainly, said_plainly
from bigbatch.infer.load import Loaded, open_model, with_start
from bigbatch.infer.predict import predict_rows
from bigbatch.parallel.agree import Leaving
from bigbatch.plan.frozen import Plan
from bigbatch.records import Evaluate, Record, Request, Save, Stop
from bigbatch.run.awaited import streaming
from bigbatch.run.between import Between
from bigbatch.run.finish import finish, missed_gates
from bigbatch.run.loop import loop
from bigbatch.run.signals import Interrupted, SignalFlag
from bigbatch.store.directory import RunDirectory, State
from bigbatch.tasks.ready import plain_runner

if TYPE_CHECKING:
    from torch import nn


class Run:
    """One training run: iterate over it for its records.

    Example:
        ::

            with bigbatch.start("recipe.yaml") as run:
                for record in run:
                    if record.kind == "eval" and record["f1_macro"] > 0.95:
                        run.stop("good enough")
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        parts: Parts | None = None,
        between: Between | None = None,
        stack: ExitStack | None = None,
        finished: Callable[[Path], object] = lambda path: None,
    ) -> None:
        """`run.start` builds runs; without one it is one that had finished before."""
        self.path: Path = directory.path
        self.status: State = "running" if between else "finished"
        self.signal: int | None = None
        """Number of the signal that interrupted the run."""
        self.result: dict[str, Any] | None = None if between else readable(directory.result)
        """Contents of result.json, once finished."""
        self.error: BigbatchError | None = None
        """What `train` raises after everything was written, also when the run had finished before: a missed gate."""
        if self.result and self.result.get("missed_gates"):
            self.error = GateMissed("; ".join(self.result["missed_gates"]))
        self._directory = directory
        self._parts = parts
        self._between = between
        self._stack = stack or ExitStack()
        self._finished = finished
        self._iterator: Generator[Record, None, None] | None = None

    # ------------------------------------------------------------ running

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the directory. A run that was left early is interrupted: the same start goes on."""
        with self._stack:
            if self._iterator is not None:
                self._iterator.close()  # puts the signal handlers back
            if self.status == "running" and self._between is not None:
                if kind is None:
                    self._between.save_interrupted(Interrupted(None))
                self._end("failed" if kind is not None and issubclass(kind, Exception) else "interrupted")
            self._let_go()

    def __iter__(self) -> Iterator[Record]:
        """Records in order; leaving the loop early and coming back goes on where it was."""
        if self._iterator is None:
            self._iterator = each_said_plainly(self._records())
        return self._iterator

    def _records(self) -> Generator[Record, None, None]:
        if self._between is None or self._parts is None:
            return
        # The flag is up until the last file is written: a second signal ends the process with its exit code.
        with SignalFlag(self._parts.recipe.launch.grace.amount) as flag:
            self._between.watch(flag)
            try:
                with closing(self._between.supply), streaming(self._parts):
                    yield from loop(self._parts.strategy, self._between)
                yield from finish(self._parts, self._directory, self._between)
            except Leaving as interruption:
                self.signal = interruption.signal
                record = self._between.save_interrupted(interruption)
                self._end("interrupted")
                self._let_go()
                yield record
                return
            except RunLocked:
                self.status = "failed"  # status.json belongs to whoever took the directory over
                raise
            except Exception as error:
                self._between.save_failed(error)
                self._end("failed")
                raise
            self.result = readable(self._directory.result)
            missed = missed_gates(self._parts, self._between.progress.figures)
            if missed:
                self.error = GateMissed("; ".join(missed))
            self._end("finished")
            if self._directory.writes:
                self._finished(self.path)
        self._let_go()

    def _let_go(self) -> None:
        """Give the directory back, and the module its own attention."""
        self._stack.close()
        if self._parts is not None:
            self._parts.forward.close()
            self._parts.strategy.world.close()

    def _end(self, status: State) -> None:
        assert self._between is not None and self._parts is not None
        self.status = status
        self._parts.module.eval()
        self._directory.write_status(status, self._between.progress.update)

    # ------------------------------------------------------------ requests, served at the next update boundary

    @said_plainly
    def stop(self, why: str = "asked to stop") -> None:
        """End the run at the next update boundary, as finished, with this reason."""
        self._request(Stop(why))

    @said_plainly
    def save(self, why: str = "asked to save") -> None:
        """Write a checkpoint at the next update boundary."""
        self._request(Save(why))

    @said_plainly
    def evaluate(self, why: str = "asked to evaluate") -> None:
        """Evaluate the validation splits at the next update boundary."""
        self._request(Evaluate(why))

    def _request(self, request: Request) -> None:
        if self._between is None:
            raise UsageError(f"{self.path} has finished: there is no update boundary left to {request.why}")
        self._between.boundary.requests.append(request)

    # ------------------------------------------------------------ results

    @property
    def leads(self) -> bool:
        """Whether this process writes the run directory: rank 0, or the only one."""
        return self._directory.writes

    @property
    def stage(self) -> str | None:
        """Of a recipe with `stages`: name of the one that the next record is of; None: it has none."""
        return None

    def _repr_html_(self) -> str:
        """A notebook's cell: where the run is and what it came to; `bigbatch.read(run.path)` draws its curves."""
        final = (self.result or {}).get("final") or {}
        rows = [("run", self.path), ("status", self.status)]
        rows += [(f"{split} {name}", f"{value:.6g}") for split, figures in final.items()
                 for name, value in figures.items() if isinstance(value, (int, float))]  # fmt: skip
        cells = "".join(
            f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in rows
        )
        return f"<table>{cells}</table>"

    @property
    def plan(self) -> Plan:
        """How the run is computed, with the reason of each choice."""
        if self._parts is not None:
            return self._parts.plan
        return Plan.from_json(readable(self._directory.plan) or {})

    @property
    def model(self) -> nn.Module:
        """The torch module: the latest weights while running, the kept ones afterwards."""
        return self._parts.module if self._parts is not None else self._opened.module

    @property
    def metrics(self) -> dict[str, float | None]:
        """Figures as `split.metric`, such as `test.f1_macro`: the final ones, or the latest while running."""
        found: Mapping[str, Mapping[str, float | None]] = (self.result or {}).get("final") or (
            self._between.progress.figures if self._between is not None else {}
        )
        return {
            f"{split}.{name}": value for split, figures in found.items() for name, value in figures.items()
        }

    @said_plainly
    def predict(self, rows: object) -> list[dict[str, Any]]:
        """Predictions of a text, of texts, of rows with the task's columns or of a table, as
        `infer.predict.predict_rows` takes and gives them.
        """
        if self._parts is None:
            opened = self._opened
            found = predict_rows(opened.forward, opened.task, opened.tokenizer, rows, columns=opened.columns)
            return list(found)
        parts = self._parts
        if parts.strategy.world.size == 1:  # the mean of replicas on several ranks takes all of them
            parts.strategy.settle()
        # Padded: it works whether or not the packed path still holds the module's attention.
        forward = plain_runner(parts.model)
        columns = parts.recipe.data.columns
        task = with_start(parts.task, self.path, parts.recipe, parts.hardware.device)
        return list(predict_rows(forward, task, parts.model.tokenizer, rows, columns=columns))

    @cached_property
    def _opened(self) -> Loaded:
        # The code that it names is what the caller's own recipe named.
        return open_model(self.path, code=True)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, status={self.status!r})"

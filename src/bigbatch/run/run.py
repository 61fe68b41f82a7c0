"""A run as Python sees it: an iterator of records that can be asked to stop, save or evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from bigbatch.errors import BigbatchError, Diverged, GateMissed
from bigbatch.infer.predict import predict_rows
from bigbatch.plan.planner import Plan
from bigbatch.records import Evaluate, Event, Record, Save, Stop
from bigbatch.run.build import Parts
from bigbatch.run.directory import State
from bigbatch.run.finish import finish, missed_gates
from bigbatch.run.keeper import Keeper
from bigbatch.run.loop import Loop
from bigbatch.run.progress import Progress
from bigbatch.run.signals import Interrupted, SignalFlag


class Run:
    """One training run. Iterate over it for its records, or call `finish_all` to exhaust it.

    Example:
        ::

            with bigbatch.start("recipe.yaml") as run:
                for record in run:
                    if record.kind == "eval" and record["f1_macro"] > 0.95:
                        run.stop("good enough")
    """

    def __init__(
        self,
        parts: Parts | None,
        keeper: Keeper,
        progress: Progress,
        *,
        loop: Loop | None,
        stack: ExitStack,
        status: State = "running",
        result: dict[str, Any] | None = None,
    ) -> None:
        """Built by `run.start`; `parts` and `loop` are None for a run that had finished before."""
        self.path: Path = keeper.directory.path
        self.status: State = status
        self.signal: int | None = None
        """Number of the signal that interrupted the run."""
        self.result = result
        """Contents of result.json, once finished."""
        self.error: BigbatchError | None = None
        self._parts = parts
        self._keeper = keeper
        self._progress = progress
        self._loop = loop
        self._stack = stack
        self._iterator: Iterator[Record] | None = None

    # ------------------------------------------------------------ running

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status == "running":
            self._iterator = None
            self._end("interrupted" if kind is None or not issubclass(kind, Exception) else "failed")
        self._stack.close()

    def __iter__(self) -> Iterator[Record]:
        """Records in order; leaving the loop early and coming back goes on where it was."""
        if self._iterator is None:
            self._iterator = self._records()
        return self._iterator

    def _records(self) -> Iterator[Record]:
        if self._loop is None or self._parts is None:
            return
        try:
            with SignalFlag() as flag:
                self._loop.watch(flag)
                yield from self._loop.records()
                yield from finish(self._parts, self._keeper, self._loop)
        except Interrupted as interruption:
            yield self._interrupted(interruption)
            return
        except Diverged as error:
            self._end("failed")
            self.error = error
            raise
        except BaseException:
            if self.status == "running":
                self._end("failed")
            raise
        self.result = self._keeper.read_result()
        self._end("finished")
        missed = missed_gates(self._parts, self._loop)
        if missed:
            self.error = GateMissed("; ".join(missed))

    def _interrupted(self, interruption: Interrupted) -> Record:
        """Drop the half-done update, save the last boundary, say so."""
        assert self._loop is not None
        self.signal = interruption.signal
        record = self._loop.save_interrupted(interruption)
        self._end("interrupted")
        return record

    def _end(self, status: State) -> None:
        self.status = status
        self._keeper.directory.write_status(status, self._progress.update)

    # ------------------------------------------------------------ requests, served at the next update boundary

    def stop(self, why: str = "asked to stop") -> None:
        """End the run at the next update boundary, as finished, with this reason."""
        self._request(Stop(why))

    def save(self, why: str = "asked to save") -> None:
        """Write a checkpoint at the next update boundary."""
        self._request(Save(why))

    def evaluate(self, why: str = "asked to evaluate") -> None:
        """Evaluate the validation splits at the next update boundary."""
        self._request(Evaluate(why))

    def _request(self, request: Stop | Save | Evaluate) -> None:
        if self._loop is not None:
            self._loop.requests.append(request)

    # ------------------------------------------------------------ results

    @property
    def plan(self) -> Plan:
        """How the run is computed, with the reason of each choice."""
        return self._parts.plan if self._parts is not None else self._keeper.read_plan()

    @property
    def model(self) -> Any:
        """The torch module: the latest weights while running, the kept ones afterwards."""
        if self._parts is None:
            self._open()
        assert self._parts is not None or self._opened is not None
        return self._parts.module if self._parts is not None else self._opened.module

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics as `split.metric`, such as `test.f1_macro`; the latest ones while running."""
        final = (self.result or {}).get("final") or self._progress.final_eval
        return {f"{split}.{name}": value for split, found in final.items() for name, value in found.items()}

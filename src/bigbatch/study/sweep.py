"""`bigbatch sweep`: many runs of one recipe, a process each; the same command goes on where it stopped.

::

    FOLDER/
      sweep.json       what is swept, and how each point ended
      runs/POINT/      an ordinary run directory
      logs/POINT.log   what that run said
      results.csv  figures/*.svg  report.html
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals
from typing import Any

from typing_extensions import TypedDict

from bigbatch.documents import Amount, checked, readable
from bigbatch.errors import RecipeError, UsageError
from bigbatch.recipe.load import load_recipe
from bigbatch.report.points import PointRow
from bigbatch.report.sweep import SweepView, write_sweep
from bigbatch.store.durable import atomic_write_json
from bigbatch.store.identity import Fingerprint, differences, fingerprint
from bigbatch.store.lock import RunLock, is_running, read_holder, this_machine
from bigbatch.stored import Damaged, read_object
from bigbatch.study.children import Ended, Work, run_all
from bigbatch.study.pace import Pace
from bigbatch.study.points import Axis, Point, points_of
from bigbatch.study.share import share_words

Say = Callable[[str], None]
_ORPHAN_SECONDS = 40.0
"""Longest wait for a run that lost its sweep and saves its last update."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is asked for."""

    recipe: Path
    changes: tuple[str, ...] = ()
    """`key=value` for all points."""
    axes: tuple[Axis, ...]
    folder: Path
    parallel: int = 1
    """Runs at a time; they share the machine's cores and memory."""
    budget_seconds: float | None = None
    """No point is started after this long; None: no limit."""
    figure: str | None = None
    """`test.f1_macro` or `f1_macro`: what the report shows; None: the usual one."""
    drop_weights: bool = False
    """Remove checkpoints and model of a point once it has its result."""
    command: str = ""
    """What the user typed, for the record."""
    words: tuple[str, ...] = ()
    """Further `key=value` for all points that are none of the user's, such as a target."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a sweep went."""

    folder: Path
    rows: tuple[PointRow, ...]
    notes: tuple[str, ...] = ()
    signal: int | None = None
    """The signal that ended it early."""

    @property
    def status(self) -> str:
        """`interrupted`, or `finished`, whatever its points came to."""
        return "finished" if self.signal is None else "interrupted"


class _Ending(TypedDict):
    exit_code: int
    said: str
    seconds: Amount


class _SweepFile(TypedDict):
    """sweep.json, as far as it is read."""

    what: dict[str, object]
    axes: list[str]
    endings: dict[str, _Ending]


@dataclass(kw_only=True)
class _State:
    """What is known of the points, in sweep.json."""

    what: Fingerprint
    axes: tuple[str, ...]
    endings: dict[str, _Ending] = field(default_factory=dict)
    """Point -> `exit_code`, `said`, `seconds` of its last process."""


def run_sweep(
    sweep: Sweep,
    *,
    environ: Mapping[str, str] | None = None,
    say: Say = lambda text: None,
    written: Callable[[SweepView], None] | None = None,
) -> Outcome:
    """Run every point that has no result yet, and write the results after each.

    Args:
        sweep: what is asked for.
        environ: where `BIGBATCH_*` keys are read from; the runs see the same.
        say: told of each start and end.
        written: writes the page; None writes that of a sweep.

    Raises:
        UsageError: the folder holds another sweep, or the words make no sense.
        RecipeError: a point's recipe is wrong; nothing is started then.
        RunLocked: another process is at work in the folder.
    """
    points = points_of(sweep.axes)
    if sweep.parallel < 1:
        raise UsageError(f"--parallel {sweep.parallel}: expected at least 1")
    what = _checked(sweep, points, environ)
    with RunLock(sweep.folder):
        state = _state(sweep, what)
        return _Running(sweep, points, state, say, written or _page(sweep)).run(environ)


class _Running:
    """One command's work on a sweep."""

    def __init__(
        self,
        sweep: Sweep,
        points: Sequence[Point],
        state: _State,
        say: Say,
        written: Callable[[SweepView], None],
    ) -> None:
        self._sweep, self._points, self._state = sweep, {point.name: point for point in points}, state
        self._say, self._written = say, written
        self._pace = Pace(
            points,
            seeds=_seeds(sweep.axes),
            parallel=sweep.parallel,
            done=[p.name for p in points if self._done(p)],
        )
        self._began = time.monotonic()

    def run(self, environ: Mapping[str, str] | None) -> Outcome:
        """Start what is left, several at a time."""
        sweep, left = self._sweep, [point for point in self._points.values() if not self._done(point)]
        self._say(f"{len(self._points)} points in {sweep.folder}, {len(left)} of them to run")
        self._save()
        shared = (
            share_words(sweep.recipe, (*sweep.changes, *sweep.words), sweep.parallel, environ) if left else ()
        )
        waiting = [self._work(point, shared) for point in left]
        came = run_all(
            waiting, sweep.parallel, may_start=self._may_start, begun=self._begun, ended=self._ended
        )
        notes = self._notes([work.name for work in waiting], came)
        for note in notes:
            self._say(note)
        view = self._view(notes)
        self._written(view)
        return Outcome(
            folder=sweep.folder,
            rows=view.rows,
            notes=tuple(notes),
            signal=None if came is None else int(came),
        )

    def _done(self, point: Point) -> bool:
        return _result(self._sweep.folder / "runs" / point.name) is not None

    def _work(self, point: Point, shared: Sequence[str]) -> Work:
        sweep = self._sweep
        run = (sweep.folder / "runs" / point.name).resolve()
        # Runs of a sweep are held against each other, and all have the same rows.
        changes = ["baseline=off", *sweep.changes, *sweep.words, *shared, *point.words, f"run.dir={run}"]
        return Work(
            name=point.name,
            words=["train", str(sweep.recipe), *changes],
            log=sweep.folder / "logs" / f"{point.name}.log",
        )

    def _may_start(self) -> bool:
        budget = self._sweep.budget_seconds
        return budget is None or time.monotonic() - self._began < budget

    def _begun(self, work: Work) -> None:
        wait_for_orphan(self._sweep.folder / "runs" / work.name, self._say)
        self._say(f"starts {work.name}")

    def _ended(self, ended: Ended) -> None:
        self._state.endings[ended.name] = {
            "exit_code": ended.code,
            "said": ended.said,
            "seconds": round(ended.seconds, 3),
        }
        self._save()
        point = self._points[ended.name]
        done = self._done(point)
        if done:
            self._pace.ended(ended.name, ended.seconds)
            for heavy in ("checkpoints", "model") if self._sweep.drop_weights else ():
                shutil.rmtree(self._sweep.folder / "runs" / ended.name / heavy, ignore_errors=True)
        reason = _row(self._sweep.folder, point, self._state.endings).exit_reason
        progress = self._pace.told(time.monotonic() - self._began)
        self._say(f"{ended.name}: {reason.partition(chr(10))[0]} ({progress})")
        self._written(self._view([]))

    def _view(self, notes: Sequence[str]) -> SweepView:
        folder = self._sweep.folder
        return SweepView(
            name=folder.resolve().name,
            command=self._sweep.command,
            seeds=_seeds(self._sweep.axes),
            rows=tuple(_row(folder, point, self._state.endings) for point in self._points.values()),
            figure=self._sweep.figure,
            notes=tuple(notes),
        )

    def _notes(self, waiting: Sequence[str], came: Signals | None) -> list[str]:
        rows = [_row(self._sweep.folder, point, self._state.endings) for point in self._points.values()]
        failed = [row for row in rows if row.exit_reason.startswith("failed")]
        notes = []
        if came is not None:
            notes.append(f"{came.name} was received: the same command goes on.")
        elif waiting:
            notes.append(
                f"The budget is spent; {len(waiting)} points were not started. The same command goes on."
            )
        if failed:
            notes.append(
                f"{len(failed)} of {len(rows)} points failed; see the logs folder. "
                "The same command tries them again."
            )
        return notes

    def _save(self) -> None:
        state = self._state
        content = {
            "command": self._sweep.command,
            "axes": list(state.axes),
            "what": dict(state.what.what),
            "endings": state.endings,
        }
        atomic_write_json(self._sweep.folder / "sweep.json", content)


def _seeds(axes: Sequence[Axis]) -> tuple[str, ...]:
    return tuple(key for axis in axes if axis.is_seed for key in axis.keys)


def _page(sweep: Sweep) -> Callable[[SweepView], None]:
    return lambda view: write_sweep(sweep.folder, view)


def _checked(sweep: Sweep, points: Sequence[Point], environ: Mapping[str, str] | None) -> Fingerprint:
    """What the sweep computes; every point's recipe is read first, so that no mistake waits for its turn."""
    common = [*sweep.changes, *sweep.words]
    problems = []
    for point in points:
        try:
            load_recipe(sweep.recipe, [*common, *point.words], environ=environ)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    recipe = load_recipe(sweep.recipe, [*common, *points[0].words], environ=environ)
    what = dict(fingerprint(recipe).what)
    # Evaluations choose the weights that are kept, and with a target the end.
    what["run.evaluate_every"] = str(recipe.run.evaluate_every)
    return Fingerprint(what=what)


def _state(sweep: Sweep, what: Fingerprint) -> _State:
    """What an earlier command left; keys that either of them varies may differ."""
    keys = tuple(key for axis in sweep.axes for key in axis.keys)
    path = sweep.folder / "sweep.json"
    if not os.path.lexists(path):
        return _State(what=what, axes=keys)
    try:
        found = checked(read_object(path), _SweepFile)
    except (OSError, Damaged) as error:
        raise UsageError(f"{path} is damaged ({error}); give this sweep another --name") from error
    before, axes, endings = Fingerprint(what=found["what"]), tuple(found["axes"]), dict(found["endings"])
    varied = {*keys, *axes}
    differing = differences(_without(before, varied), _without(what, varied))
    if differing:
        raise UsageError(
            f"{sweep.folder} holds another sweep ({'; '.join(differing)}); undo this, or give this one another --name"
        )
    return _State(what=what, axes=keys, endings=endings)


def _without(what: Fingerprint, keys: set[str]) -> Fingerprint:
    """Without these keys, the sections they name, and what the schema fills in beside them."""
    sections = {key.split(".")[0] for key in keys}

    def varied(key: str) -> bool:
        # `batch.samples` replaces `batch.tokens`, and an optimizer's name brings its own lr.
        return any(key == name or key.startswith(f"{name}.") for name in keys) or key.split(".")[0] in (
            sections & {"batch", "seed", "optimizer", "epochs", "updates", "samples", "tokens"}
        )

    return replace(what, what={key: value for key, value in what.what.items() if not varied(key)})


def _result(run: Path) -> Mapping[str, Any] | None:
    """The result of a finished run; None while there is none."""
    status, result = readable(run / "status.json"), readable(run / "result.json")
    return result if status is not None and status["state"] == "finished" else None


def _row(folder: Path, point: Point, endings: Mapping[str, _Ending]) -> PointRow:
    place = f"runs/{point.name}"
    result = _result(folder / place)
    if result is None:
        return PointRow(values=point.values, run=place, exit_reason=_reason(endings.get(point.name)))
    figures = {
        f"{split}.{name}": value for split, found in result["final"].items() for name, value in found.items()
    }
    return PointRow(
        values=point.values,
        run=place,
        exit_reason=str(result["exit_reason"]),
        updates=result["updates"],
        samples=result["samples"],
        figures=figures,
        train_seconds=result["train_seconds"],
    )


def _reason(ending: _Ending | None) -> str:
    """Why a point has no result."""
    if ending is None:
        return "not started"
    code = int(ending["exit_code"])
    if code in (130, 143, -2, -15):
        return "interrupted"
    return f"failed: exit code {code}: {ending['said']}"


def wait_for_orphan(run: Path, say: Say) -> None:
    """A run whose sweep was killed saves its last update and ends; that takes a moment."""
    path, until = run / "lock.json", time.monotonic() + _ORPHAN_SECONDS
    holder = read_holder(path)
    while (
        holder is not None
        and holder.machine == this_machine()
        and is_running(holder.pid, holder.process_start)
    ):
        if time.monotonic() > until:
            return
        say(f"waits for {holder}, which is still in {run.name}")
        time.sleep(1.0)
        holder = read_holder(path)

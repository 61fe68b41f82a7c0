"""Runs one behind the other in one folder: each a whole run directory that starts from the model of the one before.

The seam needs no file of its own: a stage has finished when its status says so, and the next one's fingerprint holds
the digest of it and of the weights that it left. The same command therefore goes on wherever it was killed, and where
a stage was changed, those before it are found finished.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from typing_extensions import override

from bigbatch.build.inputs import Live
from bigbatch.build.only import check_only, recipe_of
from bigbatch.documents import readable
from bigbatch.errors import UsageError
from bigbatch.parallel.agree import by_leader, leader_only
from bigbatch.parallel.enter import enter
from bigbatch.places import Place
from bigbatch.protocols import World
from bigbatch.recipe.layers import STAGES
from bigbatch.recipe.load import dump_recipe
from bigbatch.recipe.schema import Recipe, Stage
from bigbatch.records import Record
from bigbatch.run.run import Run
from bigbatch.store.directory import RunDirectory, State
from bigbatch.store.durable import atomic_write_text, remove_tree
from bigbatch.store.identity import read_identity
from bigbatch.store.lock import RunLock
from bigbatch.written import copy_files, new_folder, rename

_OF_A_PLAIN_RUN = ("identity.json", "metrics.jsonl", "checkpoints")
_TOLD = ("exit_reason", "updates", "samples", "tokens", "train_seconds", "peak_memory_bytes", "final")
"""What RUN/result.json tells of each stage."""


class Opens(Protocol):
    """Opens a recipe as a run."""

    def __call__(self, recipe: Recipe, *, resume: bool) -> Run:
        """`resume`: insist that the run is there already."""
        ...


def open_stages(
    recipe: Recipe,
    live: Live,
    opened: Opens,
    place: Place | None,
    resume: bool,
    continue_from: Path | None,
    *,
    say: Callable[[str], None],
    finished: Callable[[Path], object],
) -> StagedRun:
    """A recipe with stages as one run.

    Args:
        recipe: with its stages.
        live: objects of the caller's process; there must be none.
        opened: opens a recipe as a run.
        place: of this process among others; None: it is alone.
        resume: insist on going on.
        continue_from: a run to go on from with changed keys: refused.
        say: told what happens between stages.
        finished: called with the folder after the last file is written.

    Raises:
        BigbatchError: whatever is wrong with any of the stages, before the first update.
    """
    if live != Live():
        raise UsageError(
            "a recipe with stages names its model and data itself: leave the other arguments out"
        )
    if continue_from is not None:
        raise UsageError(
            "--continue is not for a recipe with stages: change the recipe, and the same command keeps the stages "
            "before the change"
        )
    world = enter(place, device=recipe.plan.device, timeout_seconds=recipe.launch.timeout.amount)
    tell = say if world.rank == 0 else lambda text: None
    return StagedRun(recipe, live, opened, world=world, resume=resume, say=tell, finished=finished)


class StagedRun(Run):
    """The stages of a recipe as one run: its records are those of the stages, its results those of the last.

    Example:
        ::

            with bigbatch.start("recipe.yaml") as run:
                for record in run:
                    print(run.stage, record.step)
    """

    def __init__(
        self,
        recipe: Recipe,
        live: Live,
        opened: Opens,
        *,
        world: World,
        resume: bool = False,
        say: Callable[[str], None] = lambda text: None,
        finished: Callable[[Path], object] = lambda path: None,
    ) -> None:
        """Take the folder and open the first stage that has something to do.

        Args:
            recipe: with its stages.
            live: objects of the caller's process.
            opened: opens one as a run.
            world: the ranks; open as long as this is.
            resume: insist that there is something to go on with.
            say: told what happens between stages.
            finished: called with the folder after the last file is written.

        Raises:
            BigbatchError: whatever is wrong with any of the stages, before the first update.
        """
        home = by_leader(world, lambda: _home(recipe.run_folder), str, Path)
        super().__init__(RunDirectory(home, writes=world.rank == 0), finished=finished)
        self._recipe, self._live, self._opens, self._say = recipe, live, opened, say
        self._whole, self._world, self._resume = self._directory, world, resume
        self._runs: list[Run] = []
        self._checked = False
        self.status, self.result, self.error = "running", None, None
        if resume and not self._whole.stages.exists():
            raise UsageError(f"--resume: there is no run in {home}; leave --resume out to start one")
        with ExitStack() as stack:
            stack.callback(world.close)
            leader_only(world, lambda: self._take(stack))
            try:
                self._advance()
            except BaseException as error:
                if self._runs:
                    self._runs[-1].__exit__(type(error), error, error.__traceback__)
                raise
            self._stack = stack.pop_all()

    @property
    @override
    def stage(self) -> str:
        """Name of the stage that the next record is of; of the last one, in the end."""
        return self._recipe.stages[max(len(self._runs) - 1, 0)].name

    # ------------------------------------------------------------ running

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As of a run: one that was left early is interrupted, and the same start goes on in the same stage."""
        with self._stack:
            if self._iterator is not None:
                self._iterator.close()
            self._runs[-1].__exit__(kind, error, trace)
            if self.status == "running":
                self._end(self._runs[-1].status)

    @override
    def _records(self) -> Generator[Record, None, None]:
        with self._stack:
            try:
                while self.status == "running":
                    yield from self._runs[-1]
                    self._advance()
            except Exception:
                self._end("failed")
                raise

    def _advance(self) -> None:
        """Behind the stage that is open: the next one that has something to do, or the end."""
        stages = self._recipe.stages
        while len(self._runs) < len(stages):
            if self._runs and not self._goes_on():
                return
            run = self._open(stages[len(self._runs)])
            if run.status == "running":
                leader_only(self._world, self._begin)
                return
        if self._goes_on():
            leader_only(self._world, self._conclude)
            self.status, self.result = "finished", readable(self._whole.result)
        self.error = self._runs[-1].error

    def _goes_on(self) -> bool:
        """Whether what is open has ended as it should; else this is the end of all, and how."""
        run, last = self._runs[-1], len(self._runs) == len(self._recipe.stages)
        if run.status == "finished" and (last or run.error is None):
            return True
        self.signal, self.error = run.signal, run.error
        self._end("failed" if run.status == "finished" else run.status)
        return False

    def _open(self, stage: Stage) -> Run:
        """A stage as a run, from the model of the one before."""
        before = self._runs[-1].path if self._runs else None
        identity = None if before is None else read_identity(before)
        model = None if before is None else before / "model"
        recipe = recipe_of(stage, self.path, model, None if identity is None else identity.fingerprint.digest)
        folder = recipe.run_folder
        if not self._checked and not _has_finished(folder):
            self._check_later(stage)
        start = "" if before is None else f", from the model of {before.name}"
        self._say(f"stage {stage.number} of {len(self._recipe.stages)}: {stage.name}{start}")
        self._parts = self._between = None
        gc.collect()  # the model before was held by circles of hooks
        run = self._opens(recipe, resume=self._resume and read_identity(folder) is not None)
        self._runs.append(run)
        self._parts, self._between, self._directory = run._parts, run._between, run._directory
        return run

    def _check_later(self, first: Stage) -> None:
        """What is wrong with a later stage is said before the first update of an earlier one."""
        self._checked = True
        for stage in self._recipe.stages[first.number :]:
            recipe = recipe_of(stage, self.path)
            if read_identity(recipe.run_folder) is None:
                self._say(
                    f"stage {stage.number} of {len(self._recipe.stages)}: {stage.name}, looked at beforehand"
                )
                check_only(recipe, self._live, self._say, self._world)

    # ------------------------------------------------------------ the folder of all of them, which rank 0 writes

    def _take(self, stack: ExitStack) -> None:
        if not self._whole.path.exists():
            stack.callback(self._whole.remove_unused)
            stack.callback(self._remove_empty)
        self._whole.create()
        self._whole.refuse_links()
        lock = stack.enter_context(RunLock(self._whole.path, job_id=self._whole.job_id))
        if lock.note:
            self._say(lock.note)
        self._whole.clean()

    def _remove_empty(self) -> None:
        with suppress(OSError):
            (self._whole.path / STAGES).rmdir()

    def _begin(self) -> None:
        """A stage is about to train: the results of an earlier recipe, which its stages keep, make room."""
        for path in (self._whole.result, self._whole.report, self._whole.model):
            if path.exists():
                remove_tree(path)
        atomic_write_text(self._whole.recipe, dump_recipe(self._recipe))
        self._whole.write_json(self._whole.stages, self._listed())
        self._whole.write_status("running", self._update)

    def _conclude(self) -> None:
        """RUN/model, RUN/result.json and the report: the last stage's, with what all of them did."""
        last, status = self._runs[-1], self._whole.read_status()
        done = (
            status is not None
            and status.state == "finished"
            and readable(self._whole.stages) == self._listed()
        )
        if done and self._whole.report.exists():
            return
        atomic_write_text(self._whole.recipe, dump_recipe(self._recipe))
        _same_files(last.path / "model", self._whole.model)
        results = [readable(run.path / "result.json") or {} for run in self._runs]
        told = [
            {**entry, **{key: result.get(key) for key in _TOLD}}
            for entry, result in zip(self._listed()[STAGES], results, strict=True)
        ]
        self._whole.write_json(self._whole.stages, self._listed())
        self._whole.write_json(self._whole.result, {**results[-1], STAGES: told})
        self._whole.report.unlink(missing_ok=True)
        self._whole.write_status("finished", self._update)
        self._finished(self.path)

    def _listed(self) -> dict[str, list[dict[str, str | None]]]:
        """Contents of stages.json."""
        folders = [run.path.name for run in self._runs] + [None] * len(self._recipe.stages)
        return {
            STAGES: [
                {"name": stage.name, "folder": folder}
                for stage, folder in zip(self._recipe.stages, folders, strict=False)
            ]
        }

    @property
    def _update(self) -> int:
        """Updates of the stage that is open."""
        run = self._runs[-1]
        return (
            run._between.progress.update
            if run._between is not None
            else int((run.result or {}).get("updates", 0))
        )

    def _end(self, status: State) -> None:
        self.status = status
        if self._runs:
            self._whole.write_status(status, self._update)


def _home(path: Path) -> Path:
    """Where the stages live: in the folder that the recipe names, or beside it where that is of a plain run."""
    candidates = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 10_000)))
    return next(each for each in candidates if not any((each / name).exists() for name in _OF_A_PLAIN_RUN))


def _has_finished(folder: Path) -> bool:
    status = RunDirectory(folder).read_status()
    return status is not None and status.state == "finished"


def _same_files(source: Path, target: Path) -> None:
    """The files of a model folder once more, without their bytes where the disk can do so; whole or not at all."""
    fresh = new_folder(target.parent, f".{target.name}.new-")
    copy_files(source, fresh, shared=True)
    if target.exists():
        remove_tree(target)
    rename(fresh, target)

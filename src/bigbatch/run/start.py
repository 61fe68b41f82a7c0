"""From a recipe to a run that can be iterated: who lives in the directory, the lock, the parts, the checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigbatch.plan.frozen import Plan
from bigbatch.protocols import Observer
from bigbatch.recipe.load import dump_recipe
from bigbatch.recipe.references import referenced_files
from bigbatch.recipe.schema import Recipe
from bigbatch.records import Event
from bigbatch.run.build import Parts, Progress as TokenProgress, Say, build
from bigbatch.run.directory import RunDirectory, environment_facts, read_json
from bigbatch.run.durable import atomic_write_text
from bigbatch.run.guard import Guard
from bigbatch.run.identity import (
    Decision,
    Finished,
    Fingerprint,
    NewName,
    Resume,
    continue_run,
    decide,
    fingerprint,
    read_identity,
    write_identity,
)
from bigbatch.run.inputs import Inputs, Live, model_digest, read_inputs
from bigbatch.run.journal import Journal
from bigbatch.run.keeper import Keeper, bytes_needed
from bigbatch.run.lock import RunLock
from bigbatch.run.loop import Loop
from bigbatch.run.progress import Progress
from bigbatch.run.run import Run
from bigbatch.tasks.catalog import task_from_recipe


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How the caller wants a run to be started."""

    resume: bool = False
    """Insist on going on in exactly the directory that the recipe names."""
    continue_from: Path | None = None
    """Go on in this directory although keys of the *what* changed."""
    allow: Sequence[str] = ()
    """The keys that may differ then."""
    say: Say = lambda text: None
    progress: TokenProgress | None = None
    observers: Sequence[Observer] = field(default_factory=tuple)
    planned: Callable[[Parts], None] = lambda parts: None
    """Told once everything is built, before update 1."""


def open_run(recipe: Recipe, live: Live, wishes: Wishes) -> Run:
    """Start, resume or recognise a run (CONTRACT section 4).

    Raises:
        BigbatchError: before update 1; nothing of an earlier run is overwritten.
    """
    task = live_task(recipe, live)
    wishes.say("reading the data")
    inputs = read_inputs(recipe, task, live)
    code = referenced_files(recipe)
    if code:
        wishes.say("runs your code: " + ", ".join(str(path) for path in code))
    what = what_is_computed(recipe, inputs, live, code)
    decision = _decide(recipe, what, wishes)
    if isinstance(decision, Finished):
        wishes.say(f"{decision.path} has finished with this recipe and this data: nothing to do")
        return Run.finished(RunDirectory(decision.path))
    with ExitStack() as stack:
        run = _open(recipe, live, wishes, task, inputs, code, what, decision, stack)
        stack.pop_all()
    return run


def live_task(recipe: Recipe, live: Live) -> Any:
    """The recipe's task, or the caller's own, with the caller's loss and metrics."""
    return task_from_recipe(recipe, loss=live.loss, metrics=live.metrics, task=live.task)


def what_is_computed(recipe: Recipe, inputs: Inputs, live: Live, code: Sequence[Path]) -> Fingerprint:
    """Fingerprint of recipe, data, code and the weights that training starts from."""
    contents = {"rows": inputs.digest, "model": model_digest(recipe, live)}
    return fingerprint(recipe, contents, code)


def _decide(recipe: Recipe, what: Fingerprint, wishes: Wishes) -> Decision:
    if wishes.continue_from is not None:
        return continue_run(wishes.continue_from, what, wishes.allow)
    decision = decide(recipe.run_folder, what, resume=wishes.resume or None)
    if isinstance(decision, NewName):
        wishes.say(
            f"{decision.taken} holds another run ({'; '.join(decision.differences)}); "
            f"this one goes to {decision.path}"
        )
    return decision


def _open(
    recipe: Recipe,
    live: Live,
    wishes: Wishes,
    task: Any,
    inputs: Inputs,
    code: Sequence[Path],
    what: Fingerprint,
    decision: Decision,
    stack: ExitStack,
) -> Run:
    directory = RunDirectory(decision.path)
    directory.preflight(0)
    directory.create()
    lock = stack.enter_context(RunLock(directory.path))
    if lock.note:
        wishes.say(lock.note)
    resumed = isinstance(decision, Resume)
    frozen = _frozen_plan(directory) if resumed else None
    parts = build(
        recipe,
        task,
        inputs,
        live,
        cache_dir=directory.path.parent / ".cache" / "tokens",
        frozen_plan=frozen,
        say=wishes.say,
        progress=wishes.progress,
    )
    directory.preflight(bytes_needed(parts, recipe.run.keep))
    known = read_identity(directory.path)
    identity = write_identity(directory.path, what, run_id=known.run_id if known and resumed else None)
    _write_facts(directory, parts, inputs, code)
    journal = Journal(directory.path)
    keeper = Keeper(directory, journal, run_id=identity.run_id, keep=recipe.run.keep)
    guard = Guard(patience=recipe.guard.patience, on_nonfinite=recipe.guard.on_nonfinite)
    progress, events = _position(keeper, parts, guard, decision, frozen)
    keeper.write_plan(parts.plan)
    directory.write_status("running", progress.update)
    loop = Loop(parts, keeper, progress, guard, wishes.observers, first_events=events, check=lock.check)
    wishes.planned(parts)
    return Run(parts=parts, keeper=keeper, loop=loop, stack=stack.pop_all())


def _frozen_plan(directory: RunDirectory) -> Plan | None:
    content = read_json(directory.plan)
    return Plan.from_json(content) if content else None


def _position(
    keeper: Keeper, parts: Parts, guard: Guard, decision: Decision, frozen: Plan | None
) -> tuple[Progress, list[Event]]:
    """Where to go on, and what to say about it."""
    if not isinstance(decision, Resume):
        return Progress(), []
    progress, notes = keeper.restore(parts, guard)
    progress = progress or Progress()
    lost = keeper.journal.rewind(progress.update, progress.journal_records)
    event = Event(
        step=progress.update,
        event="resumed",
        why="; ".join([*decision.differences, *notes]) or "the run had been interrupted",
        did=f"goes on after update {progress.update}",
        details={"records_moved": lost, "plan": "as before" if frozen else "made anew"},
    )
    return progress, [event]


def _write_facts(directory: RunDirectory, parts: Parts, inputs: Inputs, code: Sequence[Path]) -> None:
    """recipe.yaml, environment.json and copies of the user's code."""
    atomic_write_text(directory.recipe, dump_recipe(parts.recipe))
    directory.write_json(directory.environment, environment_facts(parts.hardware, inputs.digest))
    if code:
        directory.code.mkdir(exist_ok=True)
    for path in code:
        shutil.copyfile(path, directory.code / path.name)

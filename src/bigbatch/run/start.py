"""From a recipe to a run that can be iterated: who lives in the directory, the lock, the parts, the checkpoint."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bigbatch.build.build import Given, Say, build
from bigbatch.build.build import Progress as TokenProgress
from bigbatch.build.derived import Kept, derived
from bigbatch.build.inputs import Inputs, Live
from bigbatch.build.live import give_back, live_task, with_its_tokenizer
from bigbatch.build.only import checked_inputs, token_cache, what_is_computed
from bigbatch.build.parts import Parts
from bigbatch.build.ready import ready_model
from bigbatch.documents import readable
from bigbatch.errors import MachineError, UsageError
from bigbatch.model.files import file_digest
from bigbatch.model.tensors import base_digest, saved_tensors
from bigbatch.parallel.agree import by_leader, check_same, leader_only, shapes_of
from bigbatch.parallel.single import SingleWorld
from bigbatch.places import Place
from bigbatch.plan.frozen import Plan
from bigbatch.probe.hardware import hardware_facts
from bigbatch.protocols import Observer, World
from bigbatch.recipe import made_here
from bigbatch.recipe.load import dump_recipe, placed
from bigbatch.recipe.optimizers import state_multiple
from bigbatch.recipe.references import named_files, read_code, referenced_files
from bigbatch.recipe.schema import Recipe
from bigbatch.records import Event
from bigbatch.remote.fetch import provenance
from bigbatch.run.adapters import check_live
from bigbatch.run.beat import NO_BEAT, Beat
from bigbatch.run.between import Between
from bigbatch.run.events import carried_on_event
from bigbatch.run.forecast import told_anew
from bigbatch.run.guard import Guard
from bigbatch.run.homes import as_begun, told_home
from bigbatch.run.plateau import follow
from bigbatch.run.run import Run
from bigbatch.run.samples import Texts
from bigbatch.store.checkpoints import checkpoint_bytes
from bigbatch.store.directory import RunDirectory, environment_facts, environment_versions
from bigbatch.store.durable import atomic_write_bytes, atomic_write_text, make_folders
from bigbatch.store.identity import (
    Decision,
    Fingerprint,
    Finished,
    NewName,
    Resume,
    Start,
    continue_run,
    decide,
    write_identity,
)
from bigbatch.store.journal import Journal, NoJournal
from bigbatch.store.keeper import Keeper
from bigbatch.store.lock import RunLock
from bigbatch.store.mending import mend
from bigbatch.store.progress import Progress
from bigbatch.store.same_classes import check_same_classes
from bigbatch.tasks.base import Task
from bigbatch.tasks.chat import Chat
from bigbatch.tasks.chat_rows import shown_talks

_RECORD_BYTES = 2**24
"""Room for metrics.jsonl, report and the small files."""
_DECISIONS: Mapping[str, type[Decision]] = {of.__name__: of for of in (Start, Resume, Finished, NewName)}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How the caller wants a run to be started."""

    resume: bool = False
    """Insist on going on in exactly the directory that the recipe names."""
    continue_from: Path | None = None
    """Go on in this directory although keys of the *what* changed."""
    allow: Sequence[str] = ()
    """The keys that may differ then."""
    job_id: str | None = None
    """The scheduler's job number."""
    world: World = field(default_factory=SingleWorld)
    """The ranks that train together. Rank 0 has the directory, the journal and the observers."""
    place: Place | None = None
    """This process among those of its machine."""
    beat: Beat = NO_BEAT
    """Signs of life for whoever watches the ranks."""
    say: Say = lambda text: None
    insist: Say | None = None
    """Told what nobody should miss; None: as `say`."""
    progress: TokenProgress | None = None
    observers: Sequence[Observer] = field(default_factory=tuple)
    side_events: list[Event] = field(default_factory=list)
    """Where observers leave what went wrong in them; the loop makes records of it."""
    planned: Callable[[Parts], None] = lambda parts: None
    """Told once everything is built, before update 1."""
    finished: Callable[[Path], object] = lambda path: None
    """Called with the run directory after the last file is written."""


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What is known before the directory is touched."""

    recipe: Recipe
    live: Live
    task: Task
    inputs: Inputs
    code: tuple[Path, ...]
    what: Fingerprint
    decision: Start | NewName | Resume


def open_run(recipe: Recipe, live: Live, wishes: Wishes) -> Run:
    """Start, resume or recognise a run (docs/run-directory.md).

    Args:
        recipe: what to compute, and in which directory.
        live: objects of the caller's process.
        wishes: how the caller wants it started.

    Raises:
        BigbatchError: before update 1; nothing of an earlier run is overwritten.
    """
    with placed(recipe):
        return _open_run(recipe, live, wishes)


def _open_run(recipe: Recipe, live: Live, wishes: Wishes) -> Run:
    code = referenced_files(recipe)
    if code:
        wishes.say("runs your code: " + ", ".join(str(path) for path in code))
    _distinct_names(code)
    task = live_task(recipe, live)
    wishes.say("reading the data")
    inputs = checked_inputs(recipe, task, live, wishes.say)
    live = with_its_tokenizer(recipe, task, inputs, live, wishes.say)
    what = what_is_computed(recipe, task, inputs, live, [*code, *named_files(recipe)])
    if wishes.resume:
        what = as_begun(what, recipe.run_folder, live)
    check_same(wishes.world, _compared(what, code), socket.gethostname())
    decision = decided(wishes.world, lambda: _decide(recipe, live, what, inputs.classes, wishes))
    if isinstance(decision, Finished):
        wishes.say(f"{decision.path} has finished with this recipe and this data: nothing to do")
        directory = RunDirectory(decision.path, writes=wishes.world.rank == 0)
        if (
            directory.writes and not directory.report.exists()
        ):  # killed while it was written; unless it is being written now
            with suppress(MachineError), RunLock(directory.path):
                directory.clean()
        if live.module is not None:
            ready = ready_model(recipe, task, inputs, live, hardware_facts(recipe.plan).device, wishes.say)
            give_back(directory.path, ready.module, wishes.say)
        return Run(directory)
    start = _Start(
        recipe=recipe, live=live, task=task, inputs=inputs, code=tuple(code), what=what, decision=decision
    )
    with ExitStack() as stack:
        stack.callback(wishes.beat.close)
        return _open(start, wishes, stack)


def _distinct_names(code: Sequence[Path]) -> None:
    """RUN/code keeps a copy of each file by its name."""
    names = [path.name for path in code]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"the recipe names two different files called {', '.join(twice)}; give them distinct names"
        )


def _compared(what: Fingerprint, code: Sequence[Path]) -> dict[str, object]:
    """What must be equal on every rank."""
    files = {f"your code {path.name}": file_digest(path)[:12] for path in code}
    return {**what.what, **files, "versions": environment_versions()}


def _decide(
    recipe: Recipe, live: Live, what: Fingerprint, classes: Sequence[str], wishes: Wishes
) -> Decision:
    if wishes.continue_from is not None:
        decision: Decision = continue_run(wishes.continue_from, what, wishes.allow)
        check_same_classes(decision.path, classes)
        return decision
    decision = decide(recipe.run_folder, what, resume=wishes.resume or None)
    if isinstance(decision, (Resume, Finished)):
        check_same_classes(decision.path, classes)  # rows of one content can declare another order
    told_where = told_home(decision, recipe.run_folder, live)
    if told_where is not None:
        (wishes.insist or wishes.say)(told_where)
    return decision


def decided(world: World, decide: Callable[[], Decision]) -> Decision:
    """Rank 0 decides which directory the run lives in."""
    return by_leader(world, decide, _words, _decision)


def _words(decision: Decision) -> dict[str, object]:
    values = {entry.name: getattr(decision, entry.name) for entry in fields(decision)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return {"kind": type(decision).__name__, **plain}


def _decision(words: Mapping[str, Any]) -> Decision:
    kind = _DECISIONS[words["kind"]]
    values = {name: value for name, value in words.items() if name != "kind"}
    for name, value in values.items():
        if name in ("path", "taken"):
            values[name] = Path(value)
        elif name == "differences":
            values[name] = tuple(value)
    return kind(**values)


def _open(start: _Start, wishes: Wishes, stack: ExitStack) -> Run:
    """Take the directory, build the parts, write the first files, go to the newest checkpoint."""
    recipe, decision, world = start.recipe, start.decision, wishes.world
    leads = world.rank == 0
    directory = RunDirectory(decision.path, job_id=wishes.job_id, writes=leads)
    # A first guess before anything slow: the model is not loaded yet.
    directory.preflight(first_guess_bytes(recipe, start.live))
    lock, damaged = leader_only(world, lambda: _take(directory, wishes, stack)) or (None, [])
    resumed = isinstance(decision, Resume)
    frozen_plan = None
    if resumed:
        kept = by_leader(
            world, lambda: readable(directory.plan), lambda content: content, lambda content: content
        )
        frozen_plan = _frozen_plan(kept, recipe, wishes.say)
    bases: list[str] = []
    check_live(start.live.module, recipe)
    given = Given(
        live=start.live,
        world=world,
        place=wishes.place,
        plan=frozen_plan,
        cache_dir=token_cache(recipe),
        say=wishes.say,
        progress=wishes.progress,
        planned=lambda module: bases.append(base_digest(module)),
    )
    parts = build(recipe, start.task, start.inputs, given)
    check_same(world, shapes_of(parts.module), socket.gethostname())
    directory.preflight(bytes_needed(parts, recipe.run.keep))
    texts = Texts(parts, directory, parts.strategy.world)
    run_id = by_leader(world, lambda: _identify(directory, start), str, str)
    parts.data = derived(parts, Kept(directory.path, run_id, wishes.say, wishes.progress))
    if leads:
        _write_facts(directory, parts, start)
    journal = Journal(directory.path) if leads else NoJournal()
    keeper = Keeper(
        directory,
        journal,
        parts.module,
        parts.strategy.world,
        run_id=run_id,
        digest=start.what.digest,
        base=bases[0],
        keep=recipe.run.keep,
    )
    guard = Guard(patience=recipe.guard.patience, on_nonfinite=recipe.guard.on_nonfinite)
    progress, events = _position(keeper, parts, guard, decision)
    events += _damaged([*damaged, *journal.notes], progress, wishes.say)
    events += _other_ranks(parts, progress)
    # After a kill of `--continue` the same recipe goes on with what it had begun: the checkpoint is of another *what*.
    changed = keeper.restored_digest not in (None, keeper.digest)
    carried_on = wishes.continue_from is not None or changed
    if carried_on:
        progress.carry_on(changed=changed)
        follow(parts, progress)
        parts.tell_length()
        events.append(carried_on_event(parts, progress, decision, asked=wishes.continue_from is not None))
        wishes.say(f"{events[-1].why}: {events[-1].did}")
    first_save = "carried on with other settings" if carried_on else keeper.recount(progress)
    keeper.write_plan(parts.plan)
    directory.write_status("running", progress.update)
    between = Between(
        parts,
        keeper,
        progress,
        guard,
        observers=wishes.observers,
        side_events=wishes.side_events,
        first_events=events,
        first_save=first_save,
        check=lock.check if lock is not None else lambda: None,
        beat=wishes.beat,
        texts=texts,
    )
    # The loop knows of a cool-down that has begun: its end is the run's.
    wishes.planned(told_anew(parts, progress))
    return Run(directory, parts=parts, between=between, stack=stack.pop_all(), finished=wishes.finished)


def _take(directory: RunDirectory, wishes: Wishes, stack: ExitStack) -> tuple[RunLock, list[str]]:
    """Make the directory and lock it; a start that fails leaves nothing behind. Also what was damaged in it."""
    if not directory.path.exists():
        stack.callback(directory.remove_unused)
    directory.create()
    directory.refuse_links()
    lock = stack.enter_context(RunLock(directory.path, job_id=wishes.job_id))
    if lock.note:
        wishes.say(lock.note)
    directory.clean()
    return lock, mend(directory)


def _identify(directory: RunDirectory, start: _Start) -> str:
    """Write who lives here; the run's id."""
    kept = start.decision.run_id if isinstance(start.decision, Resume) else None
    return write_identity(directory.path, start.what, run_id=kept, classes=start.inputs.classes).run_id


def _damaged(notes: Sequence[str], progress: Progress, say: Say) -> list[Event]:
    """What had to be set aside, said and recorded."""
    for note in notes:
        say(note)
    return [
        Event(step=progress.update, event="damaged", why=note, did="goes on; what can be is written anew")
        for note in notes
    ]


def _other_ranks(parts: Parts, progress: Progress) -> list[Event]:
    """The run goes on with another number of ranks: a change of plan."""
    before, now = int(parts.plan.value("ranks")), parts.strategy.world.size
    if before == now:
        return []
    parts.plan = parts.plan.changed("ranks", now, f"was {before} until update {progress.update}")
    return [
        Event(
            step=progress.update,
            event="other_ranks",
            why=f"the run had {before} {'rank' if before == 1 else 'ranks'} and goes on with {now}",
            did="cuts each batch for as many; the batch, its order and the result stay",
            details={"ranks_before": before, "ranks": now},
        )
    ]


def _frozen_plan(content: Mapping[str, object] | None, recipe: Recipe, say: Say) -> Plan | None:
    """The plan that the run began with; says so where the recipe now asks for another."""
    if not content:
        say("there is no plan.json that can be read: the run is planned anew")
        return None
    plan = Plan.from_json(content)
    missing = [name for name in ("micro_tokens", "packing", "ranks") if name not in plan.choices]
    if missing:
        say(f"plan.json does not say {missing[0]}: the run is planned anew")
        return None
    for name in ("micro_tokens", "packing", "threads"):
        asked = getattr(recipe.plan, name)
        if asked is not None and name in plan.choices and plan.value(name) != asked:
            say(f"plan.{name}: the run keeps {plan.value(name)} of its plan.json; {asked} is for a new run")
    asked, kept = recipe.plan.precision.name, plan.choices.get("precision")
    if asked not in (None, "auto") and kept is not None and asked != kept.value:
        say(f"plan.precision: the run keeps {kept.value} of its plan.json; {asked} is for a new run")
    return plan


def _position(keeper: Keeper, parts: Parts, guard: Guard, decision: Decision) -> tuple[Progress, list[Event]]:
    """Where to go on, and what to say about it."""
    if not isinstance(decision, Resume):
        said = [Event(step=0, event="note", why=note, did="goes on") for note in parts.notes]
        return Progress(), said
    found, notes = keeper.restore()
    progress = Progress()
    if found is not None:
        progress = found.progress
        parts.strategy.restore(found.held, parts.moments(progress.batch_stage))
        guard.restore(found.held.facts["guard"])
    lost = keeper.journal.rewind_to(progress.update, progress.journal_records)
    event = Event(
        step=progress.update,
        event="resumed",
        why="; ".join(notes) or "the run had been interrupted",
        did=f"goes on after update {progress.update}",
        details={"records_moved": lost},
    )
    return progress, [event]


def _write_facts(directory: RunDirectory, parts: Parts, start: _Start) -> None:
    """recipe.yaml, environment.json and copies of the user's code."""
    atomic_write_text(directory.recipe, dump_recipe(start.recipe))
    facts = environment_facts(parts.hardware, start.inputs.digest)
    fetched = [provenance(name) for name in start.inputs.elsewhere]
    facts |= {"fetched": fetched} if fetched else {}
    directory.write_json(directory.environment, {**facts, "lengths": asdict(parts.clocks.lengths)})
    if parts.audit is not None:
        directory.write_json(directory.audit, parts.audit.to_json())
    if isinstance(parts.task, Chat) and parts.model.tokenizer is not None:
        talks = shown_talks(parts.train, parts.model.tokenizer)
        directory.write_json(directory.path / "conversations.json", {"conversations": talks})
    if start.code:
        make_folders(directory.code)
    for path in start.code:
        atomic_write_bytes(directory.code / path.name, read_code(path))
    made = made_here.mark(directory.path) if start.code else None
    if made is not None:
        atomic_write_text(directory.path / made_here.MARK, made)


def first_guess_bytes(recipe: Recipe, live: Live) -> int:
    """Disk space of a run as far as the size of its weights is known without loading them."""
    if live.module is not None:
        weights = sum(tensor.nbytes for tensor in saved_tensors(live.module)[0].values())
    elif recipe.model.adapter is not None:
        return _RECORD_BYTES
    else:
        folder = recipe.resolve_path(recipe.model.name or "")
        weights = (
            sum(path.stat().st_size for path in folder.glob("*.safetensors")) if recipe.model.name else 0
        )
    optimizer = recipe.optimizer
    checkpoint = weights * (1 + state_multiple(optimizer.name, optimizer.momentum, optimizer.state))
    return int((recipe.run.keep + 2) * checkpoint + weights) + _RECORD_BYTES


def bytes_needed(parts: Parts, keep: int) -> int:
    """Disk space of a run: its checkpoints (one more while one is written), the exported model, records.

    Optimiser states do not exist before the first update, so they are counted from the parameters.
    """
    tensors, _ = saved_tensors(parts.module)
    optimizer = parts.recipe.optimizer
    per_parameter = state_multiple(optimizer.name, optimizer.momentum, optimizer.state)
    trainable = sum(parameter.nbytes for parameter in parts.strategy.parameters)
    checkpoint = checkpoint_bytes(tensors) + int(per_parameter * trainable)
    model = sum(tensor.nbytes for tensor in tensors.values())
    if parts.recipe.sync.apart:
        # Each replica has weights and a state of its own; the outer step has both too.
        checkpoint *= 1 + parts.recipe.sync.replicas
    return (keep + 2) * checkpoint + model + _RECORD_BYTES

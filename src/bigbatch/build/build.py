"""Facts -> probe -> plan -> parts: everything between the rows and the first update, on one screen (`build`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from bigbatch.build.bitwise import fixed, is_bitwise, said
from bigbatch.build.clocks import Clocks, clocks_of, custom
from bigbatch.build.coupling import arranged_in_mesh, check_coupling
from bigbatch.build.defined import check_defined
from bigbatch.build.excerpt import at_work
from bigbatch.build.formats import audited
from bigbatch.build.inputs import Inputs, Live
from bigbatch.build.measure import measured_plan
from bigbatch.build.measured import Measured
from bigbatch.build.noise import refuse_unmeasured
from bigbatch.build.parts import Parts
from bigbatch.build.ready import Data, ready_model, ready_tables
from bigbatch.build.runners import open_runner
from bigbatch.build.settled import BATCH, Settled, settled
from bigbatch.build.strategies import strategy_of
from bigbatch.build.streamed import check_bound
from bigbatch.data.batches import Batches
from bigbatch.data.mixture import whole_parts
from bigbatch.data.packs import micro_batches
from bigbatch.facts import HardwareFacts, ModelFacts
from bigbatch.graph.compiled import compilations
from bigbatch.graph.recompute import candidates as recomputable
from bigbatch.model.anatomy import model_facts
from bigbatch.model.names import clean_name
from bigbatch.model.runner import Runner
from bigbatch.optim.build import build_optimizer
from bigbatch.optim.depths import depths_of
from bigbatch.parallel.agree import by_leader, leader_first
from bigbatch.parallel.bitwise import aligned
from bigbatch.parallel.single import SingleWorld
from bigbatch.places import Place
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.frozen import Plan
from bigbatch.probe.audit import Audit
from bigbatch.probe.bench import warm_up
from bigbatch.probe.hardware import hardware_facts
from bigbatch.protocols import World
from bigbatch.recipe.schema import Recipe
from bigbatch.samples import Table
from bigbatch.tasks.base import Task
from bigbatch.tasks.ready import Ready
from bigbatch.tasks.stand_in import measured_loss
from bigbatch.waiting import notes_of_waiting

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a build gets beside recipe and rows."""

    live: Live = field(default_factory=Live)
    """The caller's model, tokenizer and datasets, if any."""
    world: World = field(default_factory=SingleWorld)
    """The ranks that train together."""
    place: Place | None = None
    """This process among those of its machine."""
    plan: Plan | None = None
    """Of a run that is being resumed; it is used as it is."""
    cache_dir: Path | None = None
    """Token cache; None keeps tokens in memory."""
    say: Say = lambda text: None
    """Told each step that can take a while."""
    progress: Progress | None = None
    """(what, done, total) while tokenising."""
    audit: bool = False
    """Whether to audit the number format thoroughly, also when the plan computes in fp32."""
    planner: Callable[[Measured], Plan] = measured_plan
    """Facts -> plan."""
    planned: Callable[[nn.Module], None] = lambda module: None
    """Told of the whole model once there is a plan, before it is divided."""


def build(recipe: Recipe, task: Task, inputs: Inputs, given: Given) -> Parts:
    """Build a run from its recipe and rows.

    Args:
        recipe: what to compute.
        task: from `tasks.catalog`, with the recipe's loss and metrics.
        inputs: checked rows.
        given: everything else.

    Raises:
        ModelError: the model or tokenizer cannot be used.
        DataError: a row cannot be encoded.
        RecipeError: the batch, its rules or the schedule make no sense for this data.
        DoesNotFit: the plan's prediction exceeds the machine's memory.
    """
    world = _arranged(given.world, fixed(recipe))
    check_coupling(fixed(recipe), task, world, inputs.train.rows.column_names)
    hardware = _hardware_of(fixed(recipe), given)
    laid = _laid_out(recipe, task, inputs, given, world, hardware)
    model, data, clocks, decided = laid.model, laid.data, laid.clocks, laid.decided
    recipe = fixed(decided.recipe)
    on = _measured(recipe, hardware, laid, world, given)
    plan, audit = _planned_once(on, decided, world, given)
    forward = _opened(plan, on, world, given)
    strategy, noise = strategy_of(recipe, plan, on, forward, world)
    if BATCH not in decided.choices:  # one that is left to the run stays as it is where nothing is measured
        refuse_unmeasured(clocks.ramp, noise, plan)
    return Parts(
        recipe=decided.recipe,
        plan=plan,
        hardware=hardware,
        model=model,
        data=data,
        clocks=clocks,
        forward=forward,
        strategy=strategy,
        noise=noise,
        graphs_compiled=compilations() if forward.compiled else 0,
        notes=(*inputs.warnings, *model.notes, *laid.notes, *notes_of_waiting(hardware)),
        audit=audit,
    )


def check_before_training(recipe: Recipe, task: Task, inputs: Inputs, given: Given) -> None:
    """Whatever `build` refuses of recipe, rows and model before it measures; on every rank.

    Args:
        recipe: what will be computed.
        task: as of `build`.
        inputs: checked rows.
        given: everything else.

    Raises:
        BigbatchError: as `build`.
    """
    check_coupling(fixed(recipe), task, SingleWorld(), inputs.train.rows.column_names)
    _laid_out(recipe, task, inputs, given, given.world, hardware_facts(recipe.plan, given.place))


@dataclass(frozen=True, kw_only=True)
class _LaidOut:
    """What is known before anything is measured."""

    model: Ready
    facts: ModelFacts
    data: Data
    clocks: Clocks
    decided: Settled
    notes: tuple[str, ...]


def _laid_out(
    asked: Recipe, task: Task, inputs: Inputs, given: Given, world: World, hardware: HardwareFacts
) -> _LaidOut:
    """Model, tokens, batches and clocks, with numbers where the recipe says auto."""
    recipe = fixed(asked)
    model, tables, notes = _model_and_tables(recipe, task, inputs, given, world, hardware)
    check_defined(recipe, model.task, tables)
    facts = model_facts(model.module, model.anatomy)
    decided = settled(asked, model, tables, facts.hidden, given.plan)
    recipe = fixed(decided.recipe)
    data = Data(rows=inputs.splits, tables=tables, batches=_batches_of(recipe, model.task, tables["train"]))
    clocks = clocks_of(recipe, tables["train"], data.batches, model.task.clock)
    clocks.open_end = decided.open_end
    check_bound(recipe, tables["train"], clocks.lengths)
    return _LaidOut(model=model, facts=facts, data=data, clocks=clocks, decided=decided, notes=notes)


def _arranged(world: World, recipe: Recipe) -> World:
    """The ranks as the recipe wants them."""
    # Replicas are computed whole: their bits never depend on the ranks.
    if is_bitwise(recipe) and not recipe.sync.apart:
        world = aligned(world)
    return arranged_in_mesh(world, recipe)


def _hardware_of(recipe: Recipe, given: Given) -> HardwareFacts:
    """This machine, and how many threads compute on it."""
    hardware = hardware_facts(recipe.plan, given.place)
    threads = given.plan.choices.get("threads") if given.plan else None
    # Another number of threads sums in another order.
    torch.set_num_threads(int(threads.value) if threads else hardware.threads)
    if recipe.plan.reproducible != "off" and hardware.device.startswith("cuda"):
        reproducible_cuda()
    return hardware


def reproducible_cuda() -> None:
    """Only kernels that give the same bits each time; torch names the ones that have no such form."""
    # torch refuses deterministic cuBLAS without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def _model_and_tables(
    recipe: Recipe, task: Task, inputs: Inputs, given: Given, world: World, hardware: HardwareFacts
) -> tuple[Ready, Mapping[str, Table], tuple[str, ...]]:
    """The model with its final task, every split tokenised, and what is to be said of the rows."""
    # What ranks will divide waits on the CPU: it may not fit whole where its parts do.
    home = "cpu" if world.divides else hardware.device
    loaded = ready_model(recipe, task, inputs, given.live, home, given.say)
    tables, model, notes = leader_first(
        world, lambda: ready_tables(inputs, loaded, given.cache_dir, given.say, given.progress)
    )
    return model, tables, notes


def _batches_of(recipe: Recipe, task: Task, train: Table) -> Batches:
    """The global batches, in the order of the seed."""
    return Batches(
        train,
        seed=recipe.seed.data,
        samples=recipe.batch.samples,
        tokens=recipe.batch.tokens,
        view=task.view if task.has_view else None,
        parts=whole_parts([file.share for file in recipe.data.train if file.share]) if train.sources else (),
    )


def _measured(
    recipe: Recipe, hardware: HardwareFacts, laid: _LaidOut, world: World, given: Given
) -> Measured:
    """What measuring needs."""
    model, data, clocks = laid.model, laid.data, laid.clocks
    new_optimizer = partial(
        build_optimizer,
        settings=recipe.optimizer,
        effective=clocks.effective,
        custom=custom(recipe, recipe.optimizer.name),
        rename=clean_name,
        seed=recipe.seed.dropout,
        depths=depths_of(model.module, model.anatomy, clean_name),
    )
    return Measured(
        recipe=recipe,
        hardware=hardware,
        ready=model,
        tables=data.tables,
        batches=data.batches,
        lengths=clocks.lengths,
        length=clocks.length,
        ramp=clocks.ramp,
        new_optimizer=new_optimizer,
        say=given.say,
        model=laid.facts,
        recomputable_blocks=len(recomputable(model.anatomy)),
        divided=world.divides,
        cache_dir=None if given.cache_dir is None else given.cache_dir.parent / "calibration",
    )


def _planned_once(on: Measured, decided: Settled, world: World, given: Given) -> tuple[Plan, Audit | None]:
    """The plan that the run began with; or rank 0 measures, plans and audits."""
    if given.plan is not None:
        return given.plan, None

    def measure() -> tuple[Plan, Audit | None]:
        with at_work(on) as here:
            plan = said(given.planner(here), decided.recipe).led_by(decided.choices)
            return audited(here, plan, asked=given.audit)

    return by_leader(
        world,
        measure,
        lambda planned: planned[0].to_json(),
        lambda words: (Plan.from_json(words), None),
    )


def _opened(plan: Plan, on: Measured, world: World, given: Given) -> Runner:
    """The model, divided if ranks divide it, as the plan runs it; one that is compiled is warmed up."""
    model, how = on.ready, ForwardPlan.of(plan.choices)
    given.planned(model.module)
    if world.divides:
        world.prepare(model.module, model.anatomy)
        how = replace(how, embedding_gradients="whole")
    forward = open_runner(model, how)
    if forward.compiled:
        given.say("compiling")
        first = next(
            micro_batches(
                on.batches.at(0, 1),
                micro_tokens=int(plan.value("micro_tokens")),
                packing=plan.value("packing"),
            )
        )
        warm_up(forward, measured_loss(model.task), first)
    return forward

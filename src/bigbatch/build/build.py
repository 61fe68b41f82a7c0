"""Facts -> probe -> plan -> parts: everything between the rows and the first update, on one screen (`build`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bigbatch.build.bitwise import fixed, is_bitwise, said
from bigbatch.build.clocks import clocks_of, custom
from bigbatch.build.coupling import arranged_in_mesh, check_coupling
from bigbatch.build.defined import check_defined
from bigbatch.build.excerpt import at_work
from bigbatch.build.formats import audited, loss_scale_for
from bigbatch.build.gradients import as_asked
from bigbatch.build.inputs import Inputs, Live
from bigbatch.build.measure import measured_plan
from bigbatch.build.measured import Measured
from bigbatch.build.noise import NoiseScale, noise_scale, refuse_unmeasured
from bigbatch.build.ready import ready_model, ready_tables
from bigbatch.build.runners import open_forward
from bigbatch.build.settled import BATCH, settled
from bigbatch.build.watched import figure_of, larger_is_better, validation_splits
from bigbatch.data.batches import Batches
from bigbatch.data.packs import micro_batches
from bigbatch.data.tables import DataTable
from bigbatch.graph.compiled import compilations
from bigbatch.graph.recompute import candidates as recomputable
from bigbatch.model.anatomy import model_facts
from bigbatch.model.forwards import ModuleForward
from bigbatch.model.groups import parameter_groups
from bigbatch.model.names import clean_name
from bigbatch.optim.build import build_optimizer, set_scaled
from bigbatch.optim.depths import depths_of
from bigbatch.optim.state import load_optimizer_state, optimizer_state
from bigbatch.parallel.agree import by_leader, leader_first
from bigbatch.parallel.bitwise import aligned
from bigbatch.parallel.single import SingleWorld
from bigbatch.places import Place
from bigbatch.plan.choices import asked_for
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.frozen import Plan
from bigbatch.precision.audit import Audit
from bigbatch.probe.bench import warm_up
from bigbatch.probe.hardware import hardware_facts
from bigbatch.protocols import Metric, State, World
from bigbatch.recipe.schema import Recipe
from bigbatch.records import GlobalBatch, HardwareFacts, LengthFacts, MicroBatch, Packing, TokenTable, Update
from bigbatch.rules.batch_size import Effective
from bigbatch.rules.clocks import Length
from bigbatch.rules.ramp import Ramp, scaled_in_stage
from bigbatch.rules.schedules import Schedule
from bigbatch.step.apart import apply_apart
from bigbatch.step.coupled import CoupledExecutor
from bigbatch.step.executor import PlainExecutor
from bigbatch.step.replicas import Apart
from bigbatch.step.tree import TreeExecutor
from bigbatch.step.update import StepParts, apply_update
from bigbatch.tasks.base import Task
from bigbatch.tasks.stand_in import measured_loss
from bigbatch.waiting import notes_of_waiting

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(kw_only=True)
class Parts:
    """Everything a loop needs. `shrink` changes how the work is cut; what `auto` left open, `run.rate_test` and
    `run.plateau` decide.
    """

    recipe: Recipe
    plan: Plan
    task: Task
    tokenizer: Any
    module: nn.Module
    max_length: int
    """Tokens that samples were cut to."""
    pad_id: int
    forward: ModuleForward
    step: StepParts
    batches: Batches
    rows: Mapping[str, DataTable]
    """Split name -> rows before tokenising, for messages and examples."""
    tables: Mapping[str, TokenTable]
    """Split name -> tokenised rows; class weights are multiplied into `train`."""
    lengths: LengthFacts
    length: Length
    schedule: Schedule
    clock: str
    """What the schedule counts: `samples`, or `tokens` for tasks whose unit is the token."""
    effective: Effective
    ramp: Ramp | None = None
    """How the batch grows; None: it does not."""
    hardware: HardwareFacts
    graphs_compiled: int = 0
    """Graphs that the process had compiled before update 1; what comes later are recompilations."""
    notes: tuple[str, ...]
    """What the user should know of data and model before update 1; the plan has warnings of its own."""
    noise: NoiseScale | None = None
    """Measures the gradient noise of some updates."""
    audit: Audit | None = None
    """Of the number format: before a run in a low one, or because it was asked for."""
    open_end: bool = False
    """Whether validation decides when the cool-down begins (`run.plateau`); `length` is the most there will be."""

    @property
    def train(self) -> TokenTable:
        return self.tables["train"]

    @property
    def validation(self) -> tuple[str, ...]:
        """Names of the validation splits, the main one first."""
        return tuple(validation_splits(self.tables))

    @property
    def metrics(self) -> Sequence[Metric]:
        return self.task.metrics

    @property
    def micro_tokens(self) -> int:
        return int(self.plan.value("micro_tokens"))

    @property
    def evaluation_micro_tokens(self) -> int:
        """Computed tokens of a micro-batch of evaluations; never more than a shrunk plan allows."""
        choices = self.plan.choices
        return int(
            choices[
                "evaluation_micro_tokens" if "evaluation_micro_tokens" in choices else "micro_tokens"
            ].value
        )

    @property
    def packing(self) -> Packing:
        return self.plan.value("packing")

    @property
    def best_metric(self) -> str | None:
        """What chooses the weights that are kept: the recipe's metric, else the validation loss."""
        return (self.recipe.best.metric or "loss") if self.validation else None

    def larger_is_better(self, metric: str) -> bool:
        """Whether a figure improves upwards; a loss does not."""
        return larger_is_better(figure_of(metric, [*self.tables])[1], self.metrics)

    def in_stage(self, stage: int) -> Effective:
        """Learning rate, betas and eps at a size of the ramp; without one, at the batch."""
        if self.ramp is None:
            return self.effective
        return scaled_in_stage(self.recipe.optimizer, self.ramp, stage)

    def learning_rate(self, first_position: int, batch_samples: int, stage: int = 0) -> float:
        """Learning rate of an update: the schedule at the midpoint of its samples (of its tokens for clm)."""
        peak = self.in_stage(stage).lr
        if self.clock == "tokens":
            first = self.batches.tokens_before(first_position)
            after = self.batches.tokens_before(first_position + batch_samples)
            return peak * self.schedule(first, after - first)
        return peak * self.schedule(first_position, batch_samples)

    @property
    def update(self) -> Callable[..., Update]:
        """What moves the weights by one global batch."""
        return apply_update if self.step.apart is None else apply_apart

    def micro_batches(self, batch: GlobalBatch, micro_tokens: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of a global batch."""
        cut: dict[str, Any] = {"micro_tokens": micro_tokens, "packing": self.packing}
        if self.step.apart is not None:
            return self.step.apart.micro_batches(batch, **cut)
        if self.noise is not None and self.noise.due(batch):
            return self.noise.micro_batches(batch, **cut)
        return micro_batches(batch, self.train, part=self.step.world.part, **cut)

    def settle(self) -> None:
        """The module holds the weights that the run has: the mean of replicas, where some train apart, or the average
        that an optimiser keeps.
        """
        if self.step.apart is not None:
            self.step.apart.settle()
        elif hasattr(self.step.optimizer, "eval"):
            self.step.optimizer.eval()  # type: ignore[attr-defined]

    def resume_training(self) -> None:
        """The module holds the weights that the next gradient is taken at, in training mode."""
        self.module.train()
        if self.step.apart is None and hasattr(self.step.optimizer, "train"):
            self.step.optimizer.train()  # type: ignore[attr-defined]

    def state(self) -> State:
        """What is held beside the module's own tensors; settled, so that those are the weights that the run has."""
        self.settle()
        scale, apart = self.step.loss_scale, self.step.apart
        facts = {} if scale is None else {"loss_scale": scale.to_state()}
        if apart is None:
            return State(tensors=optimizer_state(self.step.optimizer), facts=facts)
        return State(tensors=apart.state(), facts={**facts, "sync": asdict(apart.rhythm)}, own=True)

    def restore(self, held: State, stage: int) -> None:
        """Put back what `state` held, at this size of the ramp; the module has its weights already."""
        if self.ramp is not None:  # before: averages are loaded as they are where betas are the same
            here = self.in_stage(stage)
            set_scaled(self.step.optimizer, here.betas, here.eps)
        if self.step.apart is not None:
            self.step.apart.restore(held.tensors, held.facts["sync"])
        else:
            load_optimizer_state(self.step.optimizer, held.tensors)
        if self.step.loss_scale is not None and "loss_scale" in held.facts:
            self.step.loss_scale.restore(held.facts["loss_scale"])

    def tell_length(self) -> None:
        """The plan says anew how many updates there are, at which rates."""
        told = asked_for(self.recipe, self.length, self.ramp)
        self.plan = replace(self.plan, choices={**self.plan.choices, **told})

    def shrink(self, micro_tokens: int, why: str, *, evaluation: bool = False) -> None:
        """Cut the work into smaller pieces from now on; evaluations alone, while theirs are larger."""
        if not evaluation or self.micro_tokens > micro_tokens:
            self.plan = self.plan.changed("micro_tokens", micro_tokens, why)
        if self.evaluation_micro_tokens > micro_tokens:
            self.plan = self.plan.changed("evaluation_micro_tokens", micro_tokens, why)


def build(
    recipe: Recipe,
    task: Task,
    inputs: Inputs,
    live: Live,
    *,
    cache_dir: Path | None,
    frozen_plan: Plan | None = None,
    say: Say = lambda text: None,
    progress: Progress | None = None,
    audit: bool = False,
    world: World | None = None,
    place: Place | None = None,
    planner: Callable[[Measured], Plan] = measured_plan,
    planned: Callable[[nn.Module], None] = lambda module: None,
) -> Parts:
    """Build a run from its recipe and rows.

    Args:
        recipe: what to compute.
        task: from `tasks.catalog`, with the recipe's loss and metrics.
        inputs: checked rows.
        live: the caller's model, tokenizer and datasets, if any.
        cache_dir: token cache; None keeps tokens in memory.
        frozen_plan: the plan of a run that is being resumed; it is used as it is.
        say: told each step that can take a while.
        progress: (what, done, total) while tokenising.
        audit: whether to audit the number format thoroughly, also when the plan computes in fp32.
        world: the ranks that train together; None: this process alone.
        place: this process among those of its machine.
        planner: facts -> plan.
        planned: told of the whole model once there is a plan, before it is divided.

    Raises:
        ModelError: the model or tokenizer cannot be used.
        DataError: a row cannot be encoded.
        RecipeError: the batch, its rules or the schedule make no sense for this data.
        DoesNotFit: the plan's prediction exceeds the machine's memory.
    """
    asked, recipe = recipe, fixed(recipe)
    world = world or SingleWorld()
    apart = recipe.sync.apart
    # Replicas are computed whole: their bits never depend on the ranks.
    if is_bitwise(recipe) and not apart:
        world = aligned(world)
    world = arranged_in_mesh(world, recipe)
    check_coupling(recipe, task, world, inputs.train.rows.column_names)
    hardware = hardware_facts(recipe.plan, place)
    threads = frozen_plan.choices.get("threads") if frozen_plan else None
    # Another number of threads sums in another order.
    torch.set_num_threads(int(threads.value) if threads else hardware.threads)
    if recipe.plan.reproducible != "off" and hardware.device.startswith("cuda"):
        reproducible_cuda()
    # What ranks will divide waits on the CPU: it may not fit whole where its parts do.
    home = "cpu" if world.divides else hardware.device
    loaded = ready_model(recipe, task, inputs, live, home, say)
    tables, ready, token_notes = leader_first(
        world, lambda: ready_tables(recipe, inputs, loaded, cache_dir, say, progress)
    )
    check_defined(recipe, ready.task, tables)
    model = model_facts(ready.module, ready.anatomy)
    decided = settled(asked, ready, tables, model.hidden, frozen_plan)
    asked, recipe = decided.recipe, fixed(decided.recipe)
    batches = Batches(
        tables["train"],
        seed=recipe.seed.data,
        samples=recipe.batch.samples,
        tokens=recipe.batch.tokens,
        view=ready.task.view if ready.task.has_view else None,
    )
    clocks = clocks_of(recipe, tables["train"], batches, ready.task.clock)
    new_optimizer = partial(
        build_optimizer,
        settings=recipe.optimizer,
        effective=clocks.effective,
        custom=custom(recipe, recipe.optimizer.name),
        rename=clean_name,
        seed=recipe.seed.dropout,
        depths=depths_of(ready.module, ready.anatomy, clean_name),
    )
    on = Measured(
        recipe=recipe,
        hardware=hardware,
        ready=ready,
        tables=tables,
        batches=batches,
        lengths=clocks.lengths,
        length=clocks.length,
        ramp=clocks.ramp,
        new_optimizer=new_optimizer,
        say=say,
        model=model,
        recomputable_blocks=len(recomputable(ready.anatomy)),
        divided=world.divides,
        cache_dir=None if cache_dir is None else cache_dir.parent / "calibration",
    )
    found: Audit | None = None
    if frozen_plan is not None:
        plan = frozen_plan
    else:

        def measure() -> tuple[Plan, Audit | None]:
            with at_work(on) as here:
                return audited(here, said(planner(here), asked).led_by(decided.choices), asked=audit)

        plan, found = by_leader(
            world,
            measure,
            lambda planned: planned[0].to_json(),
            lambda words: (Plan.from_json(words), None),
        )
    how = ForwardPlan.of(plan.choices)
    planned(ready.module)
    if world.divides:
        world.prepare(ready.module, ready.anatomy)
        how = replace(how, embedding_gradients="whole")
    forward = open_forward(ready, how)
    if forward.compiled:
        say("compiling")
        warm_up(
            forward,
            measured_loss(ready.task),
            next(micro_batches(batches.at(0, 1), tables["train"], **_cut(plan))),
        )
    loss_scale = loss_scale_for(plan)
    trainable = list(world.trainable(ready.module))
    parameters = [parameter for _, parameter in trainable]
    of_executor: dict[str, Any] = {
        "forward": forward,
        "task": ready.task,
        "device": torch.device(hardware.device),
        "seed": recipe.seed.dropout,
        "loss_scale": loss_scale,
        "span": forward.span,
    }
    # What is measured on throw-away parameters is measured by one rank alone: only here may ranks speak.
    new_trained = partial(new_optimizer, world=world, trainable=trainable)
    replicas = None
    if apart:
        executor = PlainExecutor(in_place=forward.in_place, **of_executor)
        replicas = Apart(
            ready.module,
            parameters,
            world,
            recipe.sync,
            new_trained,
            table=tables["train"],
            last_update=clocks.length.updates,
            shared_gradients=forward.in_place,
        )
    elif ready.task.couples == "batch":
        executor = CoupledExecutor(
            world=world,
            cached=recipe.gradient.name == "cached",
            in_place=forward.in_place,
            before_last=world.last_backward,
            **of_executor,
        )
    elif is_bitwise(recipe):
        executor = TreeExecutor(parameters=parameters, **of_executor)
    else:
        executor = PlainExecutor(in_place=forward.in_place, before_last=world.last_backward, **of_executor)
    step = StepParts(
        task=ready.task,
        executor=as_asked(recipe, executor, parameters, world),
        optimizer=new_trained(ready.module) if replicas is None else replicas.held[0].optimizer,
        apart=replicas,
        parameters=parameters,
        world=world,
        clip=recipe.clip,
        loss_scale=loss_scale,
        device=hardware.device,
    )
    groups = {clean_name(name): own for name, own in parameter_groups(ready.module, ready.anatomy).items()}
    noise = noise_scale(
        recipe, plan, ready.task, groups, step=step, table=tables["train"], length=clocks.length
    )
    if (
        BATCH not in decided.choices
    ):  # a batch that is left to the run stays as it is where nothing is measured
        refuse_unmeasured(clocks.ramp, noise, plan)
    return Parts(
        recipe=asked,
        noise=noise,
        plan=plan,
        task=ready.task,
        tokenizer=ready.tokenizer,
        module=ready.module,
        max_length=ready.max_length,
        pad_id=ready.pad_id,
        forward=forward,
        step=step,
        batches=batches,
        rows=inputs.splits,
        tables=tables,
        lengths=clocks.lengths,
        length=clocks.length,
        schedule=clocks.schedule,
        clock=clocks.clock,
        effective=clocks.effective,
        ramp=clocks.ramp,
        hardware=hardware,
        graphs_compiled=compilations() if forward.compiled else 0,
        audit=found,
        open_end=decided.open_end,
        notes=(*inputs.warnings, *ready.notes, *token_notes, *notes_of_waiting(hardware)),
    )


def _cut(plan: Plan) -> dict[str, Any]:
    """How the plan cuts a batch."""
    return {"micro_tokens": int(plan.value("micro_tokens")), "packing": plan.value("packing")}


def reproducible_cuda() -> None:
    """Only kernels that give the same bits each time; torch names the ones that have no such form."""
    # torch refuses deterministic cuBLAS without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)

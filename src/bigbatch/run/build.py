"""Facts -> probe -> plan -> parts, on one screen: everything between the rows and the first update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bigbatch.data.batches import Batches
from bigbatch.data.lengths import length_facts
from bigbatch.data.packs import micro_batches
from bigbatch.data.tokens import token_table
from bigbatch.model.anatomy import anatomy, model_facts
from bigbatch.model.forwards import PackedForward, PaddedForward, can_pack
from bigbatch.model.load import check_model, load_classifier, load_tokenizer
from bigbatch.model.names import clean_name
from bigbatch.optim.build import build_optimizer, state_multiple
from bigbatch.parallel.single import SingleWorld
from bigbatch.plan.planner import Plan, make_plan
from bigbatch.probe.calibrate import calibrate
from bigbatch.probe.exactness import probe_packing
from bigbatch.probe.hardware import hardware_facts
from bigbatch.protocols import Forward, Metric
from bigbatch.recipe.references import is_reference, resolve_reference
from bigbatch.recipe.schema import Recipe
from bigbatch.records import (
    CalibrationFacts,
    HardwareFacts,
    MicroBatch,
    Packing,
    ProbeFacts,
    Targets,
    TokenTable,
)
from bigbatch.rules.batch_size import Effective, scaled
from bigbatch.rules.clocks import Length, total_updates
from bigbatch.rules.schedules import Schedule, schedule_from
from bigbatch.run.inputs import Inputs, Live
from bigbatch.step.executor import PlainExecutor
from bigbatch.step.update import StepParts

PROBE_SAMPLES = 32
Say = Callable[[str], None]


@dataclass(kw_only=True)
class Parts:
    """Everything a loop needs. Only `shrink` changes it, and only how the work is cut."""

    recipe: Recipe
    plan: Plan
    task: Any
    tokenizer: Any
    module: nn.Module
    forward: Forward
    step: StepParts
    batches: Batches
    tables: Mapping[str, TokenTable]
    """Split name -> tokenised rows, class weights multiplied in."""
    length: Length
    schedule: Schedule
    effective: Effective
    hardware: HardwareFacts
    notes: tuple[str, ...]
    """What the user should know before update 1."""

    @property
    def train(self) -> TokenTable:
        return self.tables["train"]

    @property
    def validation(self) -> tuple[str, ...]:
        """Names of the validation splits, the main one first."""
        return tuple(name for name in self.tables if name.startswith("validation"))

    @property
    def metrics(self) -> Sequence[Metric]:
        return self.task.metrics

    @property
    def micro_tokens(self) -> int:
        return int(self.plan.value("micro_tokens"))

    @property
    def packing(self) -> Packing:
        return self.plan.value("packing")

    @property
    def best_metric(self) -> str | None:
        """What chooses the weights that are kept: the recipe's metric, else the validation loss."""
        return (self.recipe.best or "loss") if self.validation else None

    def larger_is_better(self, metric: str) -> bool:
        """Whether a metric improves upwards; a loss does not."""
        name = metric.rpartition(".")[2]
        return any(known.larger_is_better for known in self.metrics if _reports(known, name)) and name != "loss"

    def learning_rate(self, first_position: int, batch_samples: int) -> float:
        """Learning rate of an update: the schedule at the midpoint of its samples."""
        return self.effective.lr * self.schedule(first_position, batch_samples)

    def shrink(self, micro_tokens: int, why: str) -> None:
        """Cut the work into smaller pieces from now on."""
        self.plan = self.plan.changed("micro_tokens", micro_tokens, why)


def _reports(metric: Metric, name: str) -> bool:
    """Whether a metric's figures include `name` (`f1_<label>` belongs to per-class F1)."""
    return metric.name == name or name.startswith(f"{metric.name}_") or metric.name in name


def build(
    recipe: Recipe,
    task: Any,
    inputs: Inputs,
    live: Live,
    *,
    cache_dir: Path | None,
    frozen_plan: Plan | None = None,
    say: Say = lambda text: None,
    progress: Callable[[str, int, int], None] | None = None,
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

    Raises:
        ModelError, DataError, RecipeError: before anything was computed.
        DoesNotFit: the plan's prediction exceeds the machine's memory.
    """
    hardware = hardware_facts(recipe.plan)
    torch.set_num_threads(hardware.threads)
    tokenizer = live.tokenizer or (None if inputs.train.tokenised else load_tokenizer(recipe.model))
    say("loading the model")
    task = replace(task, label_set=inputs.labels)
    loaded = load_classifier(
        recipe.model,
        **task.head,
        seed=recipe.seed.model,
        dropout=recipe.regularise.dropout,
        module=live.module,
    )
    module = loaded.module.to(hardware.device)
    structure = anatomy(module)
    max_length = check_model(module, tokenizer, recipe.data.max_length, padded=True)
    task = _finished_task(task, module, structure.pools, max_length, inputs)
    tables, truncated = _tokenise(inputs, task, tokenizer, cache_dir, say, progress)
    task = task.weighted(tables["train"])
    tables = {name: _with_class_weights(table, task) for name, table in tables.items()}

    lengths = length_facts(tables["train"])
    batches = Batches(
        tables["train"], seed=recipe.seed.data, samples=recipe.batch.samples, tokens=recipe.batch.tokens
    )
    length = total_updates(
        recipe.length,
        recipe.batch.samples,
        lengths.samples,
        batch_tokens=recipe.batch.tokens,
        tokens=lengths.tokens,
        allow_repeats=recipe.batch.allow_repeats,
        next_position=batches.next_position if recipe.batch.tokens else None,
    )
    effective = scaled(recipe.optimizer, recipe.batch.samples or recipe.batch.tokens or 1)
    mean_batch = length.samples / length.updates
    schedule = schedule_from(
        recipe.schedule, length.samples, mean_batch, lengths.samples, custom=_custom(recipe, recipe.schedule.name)
    )

    padded = PaddedForward(module, _pad_id(module, tokenizer))
    packed_possible, why_not = can_pack(module)
    packed = PackedForward(module, structure) if packed_possible else None
    world = SingleWorld()

    def new_optimizer() -> torch.optim.Optimizer:
        return build_optimizer(
            module,
            recipe.optimizer,
            effective,
            world,
            custom=_custom(recipe, recipe.optimizer.name),
            rename=clean_name,
        )

    if frozen_plan is None:
        say("probing: is the unpadded path exact on these samples?")
        probe = _probe(packed, padded, why_not, tables["train"], recipe)
        packing = recipe.plan.packing or ("packed" if probe.packed_ok else "padded")
        say("calibrating: how fast, how much memory?")
        calibration = _calibrate(
            packed if packing == "packed" and packed else padded, task, tables["train"], recipe, packing, module, new_optimizer
        )
        plan = make_plan(
            recipe,
            hardware,
            model_facts(module),
            lengths,
            probe,
            calibration,
            state_multiple(recipe.optimizer.name, recipe.optimizer.momentum),
            length=length,
            evaluation_samples=_evaluation_samples(tables, recipe, length),
        )
    else:
        plan = frozen_plan
    forward = packed if plan.value("packing") == "packed" and packed is not None else padded
    device = torch.device(hardware.device)
    executor = PlainExecutor(forward=forward, task=task, device=device, seed=recipe.seed.dropout)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    notes = (
        *inputs.warnings,
        *loaded.notes,
        *length.warnings,
        *schedule.warnings,
        *effective.notes,
        *effective.warnings,
        *truncated,
    )
    return Parts(
        recipe=recipe,
        plan=plan,
        task=task,
        tokenizer=tokenizer,
        module=module,
        forward=forward,
        step=StepParts(
            task=task,
            executor=executor,
            optimizer=new_optimizer(),
            parameters=parameters,
            world=world,
            clip=recipe.clip,
        ),
        batches=batches,
        tables=tables,
        length=length,
        schedule=schedule,
        effective=effective,
        hardware=hardware,
        notes=notes,
    )

"""What a loop needs, once it is built; and how the plan of it changes while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from bigbatch.build.clocks import Clocks
from bigbatch.build.ready import Data
from bigbatch.data.batches import Batches
from bigbatch.data.mixture import source_names
from bigbatch.data.tables import DataTable
from bigbatch.facts import HardwareFacts
from bigbatch.metrics.watched import figure_of, judged_sources, larger_is_better, validation_splits
from bigbatch.model.runner import Runner
from bigbatch.plan.choices import asked_for
from bigbatch.plan.frozen import Plan
from bigbatch.probe.audit import Audit
from bigbatch.protocols import Cut, Metric, Moments
from bigbatch.recipe.schema import Recipe
from bigbatch.records import Update
from bigbatch.rules.batch_size import Effective
from bigbatch.rules.ramp import scaled_in_stage
from bigbatch.samples import GlobalBatch, Packing, Table
from bigbatch.step.apart import Apart
from bigbatch.step.noise import Noise, Remembers
from bigbatch.step.together import Together
from bigbatch.tasks.base import Task
from bigbatch.tasks.ready import Ready


@dataclass(kw_only=True)
class Parts:
    """Everything a loop needs. `shrink` changes how the work is cut; what `auto` left open, `run.rate_test` and
    `run.plateau` decide.
    """

    recipe: Recipe
    """As the user wrote it, with numbers where it left something open."""
    plan: Plan
    hardware: HardwareFacts
    model: Ready
    data: Data
    clocks: Clocks
    forward: Runner
    strategy: Together | Apart
    """The way to train."""
    noise: Noise
    """Measures the gradient noise of some updates, or of none."""
    graphs_compiled: int = 0
    """Graphs that the process had compiled before update 1; what comes later are recompilations."""
    notes: tuple[str, ...]
    """What the user should know of data and model before update 1; the plan has warnings of its own."""
    audit: Audit | None = None
    """Of the number format: before a run in a low one, or because it was asked for."""

    @property
    def module(self) -> nn.Module:
        return self.model.module

    @property
    def task(self) -> Task:
        return self.model.task

    @property
    def batches(self) -> Batches:
        return self.data.batches

    @property
    def rows(self) -> Mapping[str, DataTable]:
        """Split name -> rows before tokenising, for messages and examples."""
        return self.data.rows

    @property
    def tables(self) -> Mapping[str, Table]:
        """Split name -> tokenised rows; class weights are multiplied into `train`."""
        return self.data.tables

    @property
    def train(self) -> Table:
        return self.tables["train"]

    @property
    def validation(self) -> tuple[str, ...]:
        """Names of the validation splits, the main one first."""
        return tuple(validation_splits(self.tables))

    @property
    def judged(self) -> tuple[str, ...]:
        """All that evaluations of validation have figures of, the main split first: sources of a mixture, too."""
        return (*self.validation, *judged_sources(self.recipe, self.tables))

    def evaluated_with(self, name: str) -> str:
        """The split that has to be evaluated for figures of this name: that of a source is the one it is a part of."""
        return name if name in self.tables else "validation"

    @property
    def source_names(self) -> tuple[str, ...]:
        """Of a mixture by share; empty: all rows are alike, or lie in shards."""
        files = self.recipe.data.train
        shared = self.train.sources and all(file.share for file in files)
        return source_names([file.path for file in files]) if shared else ()

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
        return larger_is_better(figure_of(metric, self.judged or [*self.tables])[1], self.metrics)

    def in_stage(self, stage: int) -> Effective:
        """Learning rate, betas and eps at a size of the ramp; without one, at the batch."""
        if self.clocks.ramp is None:
            return self.clocks.effective
        return scaled_in_stage(self.recipe.optimizer, self.clocks.ramp, stage)

    def learning_rate(self, first_position: int, batch_samples: int, stage: int = 0) -> float:
        """Learning rate of an update: the schedule at the midpoint of its samples (of its tokens for clm).

        Args:
            first_position: number of the update's first sample, counted from the run's first.
            batch_samples: of the update.
            stage: place of its batch among the ramp's sizes.
        """
        peak = self.in_stage(stage).lr
        if self.clocks.clock == "tokens":
            first = self.batches.tokens_before(first_position)
            after = self.batches.tokens_before(first_position + batch_samples)
            return peak * self.clocks.schedule(first, after - first)
        return peak * self.clocks.schedule(first_position, batch_samples)

    def noted(self, record: Update, batch: GlobalBatch, progress: Remembers) -> Update:
        """The record of an update with what was measured beside it: the gradient's noise, each source's loss.

        Args:
            record: of the update.
            batch: its samples.
            progress: remembers the averages of the noise.
        """
        return self.strategy.sources.noted(self.noise.noted(record, progress), batch)

    @property
    def cut(self) -> Cut:
        """How the plan cuts a batch."""
        return Cut(self.micro_tokens, self.packing)

    def moments(self, stage: int) -> Moments | None:
        """Betas and eps at a size of the ramp; None without one."""
        here = self.in_stage(stage)
        return None if self.clocks.ramp is None else (here.betas, here.eps)

    def tell_length(self) -> None:
        """The plan says anew how many updates there are, at which rates."""
        told = asked_for(self.recipe, self.clocks.length, self.clocks.ramp)
        self.plan = replace(self.plan, choices={**self.plan.choices, **told})

    def shrink(self, micro_tokens: int, why: str, *, evaluation: bool = False) -> None:
        """Cut the work into smaller pieces from now on; evaluations alone, while theirs are larger.

        Args:
            micro_tokens: the new upper bound of computed tokens.
            why: reason that the plan gives for it.
            evaluation: whether it was an evaluation that needs it.
        """
        if not evaluation or self.micro_tokens > micro_tokens:
            self.plan = self.plan.changed("micro_tokens", micro_tokens, why)
        if self.evaluation_micro_tokens > micro_tokens:
            self.plan = self.plan.changed("evaluation_micro_tokens", micro_tokens, why)

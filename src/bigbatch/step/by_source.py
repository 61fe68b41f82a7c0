"""The loss of each source of a mixture, noted beside the gradient.

    loss of source k in an update  =  sum over terms, over k's units  loss[term, unit] / denominator_k[term]

Units of a micro-batch go through the task's loss source by source; losses are sums over units, so the gradient is that
of the whole. `denominator_k` is what the task divides by if it sees the units of k alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bigbatch.model.logits import DeferredLogits
from bigbatch.protocols import Losses, Rule, World
from bigbatch.records import Update
from bigbatch.samples import UNITS, GlobalBatch, MicroBatch, Targets

Outputs = Tensor | DeferredLogits


class Sources:
    """All rows are alike: nothing is noted (`SourceLosses` notes the sources of a mixture)."""

    def watched(self, rule_of: Callable[[Losses], Rule], task: Losses) -> Rule:
        """The rule by which micro-batches learn a task's loss.

        Args:
            rule_of: a loss -> the rule.
            task: whose loss is learnt.
        """
        return rule_of(task)

    def begin(self) -> None:
        """The micro-batches of an update are walked from the first one, maybe anew."""

    def noted(self, record: Update, batch: GlobalBatch) -> Update:
        """The record with what each source of its batch lost; on every rank."""
        return record


@dataclass(kw_only=True)
class SourceLosses(Sources):
    """Notes what each source of a mixture loses."""

    names: Sequence[str]
    """Of the sources."""
    firsts: Sequence[int]
    """First row of each in the training table."""
    task: Losses
    world: World

    def __post_init__(self) -> None:
        self._owner_U = np.empty(0, np.int64)
        self._sums: dict[str, list[Tensor | float]] = {}

    def watched(self, rule_of: Callable[[Losses], Rule], task: Losses) -> Rule:
        """The rule, with each micro-batch's units known to be of their sources."""
        rule = rule_of(_OneByOne(task, self))

        def watched(
            micro_batch: MicroBatch, denominators: Mapping[str, float], seed: Callable[[int], None]
        ) -> dict[str, Tensor]:
            self._owner_U = self._owners(micro_batch.sample_ids_B)[micro_batch.unit_sample_U]
            return rule(micro_batch, denominators, seed)

        return watched

    def begin(self) -> None:
        """Forget what an update that was left half-way had noted."""
        self._sums = {}

    def losses(self, loss: Callable[[Outputs, Targets], dict[str, Tensor]], outputs: Outputs,
               targets: Targets) -> dict[str, Tensor]:  # fmt: skip
        """Per term, what all units of a micro-batch lose, as one value a source or a unit.

        Args:
            loss: the task's.
            outputs: of U units.
            targets: theirs.
        """
        found: dict[str, list[Tensor]] = {}
        for source in np.unique(self._owner_U).tolist():
            at_u = torch.from_numpy(np.flatnonzero(self._owner_U == source)).to(outputs.device)
            for term, values in loss(
                _some(outputs, at_u), targets.map(lambda each, at_u=at_u: each[at_u])
            ).items():
                found.setdefault(term, []).append(values.flatten())
                sums = self._sums.setdefault(term, [0.0] * len(self.names))
                sums[source] = sums[source] + values.detach().sum().double()
        return {term: torch.cat(parts) for term, parts in found.items()} or loss(outputs, targets)

    def noted(self, record: Update, batch: GlobalBatch) -> Update:
        """The record with each source's loss; None for one of which nothing in the batch counts."""
        denominators = self._denominators(batch)
        terms = sorted({term for own in denominators for term in own})
        nothing = [0.0] * len(self.names)
        mine = [
            float(value) if self.world.counts else 0.0
            for term in terms
            for value in self._sums.get(term, nothing)
        ]
        totals = [sum(column) for column in zip(*self.world.exchange(mine), strict=True)]
        found: dict[str, float | None] = {}
        for source, (name, own) in enumerate(zip(self.names, denominators, strict=True)):
            pairs = [
                (totals[at * len(self.names) + source], own.get(term, 0.0)) for at, term in enumerate(terms)
            ]
            found[name] = sum(lost / count for lost, count in pairs if count) if any(own.values()) else None
        return replace(record, sources=found)

    def _denominators(self, batch: GlobalBatch) -> list[dict[str, float]]:
        owner_U = np.repeat(self._owners(batch.sample_ids_B), batch.table[UNITS].lengths)
        return [
            self.task.denominators(batch.targets.map(lambda each, own=owner_U == source: each[own]))
            for source in range(len(self.names))
        ]

    def _owners(self, ids_B: np.ndarray) -> np.ndarray:
        """Source of each row (B,); of filler, which weighs nothing, the first."""
        return np.maximum(np.searchsorted(np.asarray(self.firsts), ids_B, side="right") - 1, 0)


@dataclass(frozen=True)
class _OneByOne:
    """A task's loss, source by source."""

    task: Losses
    sources: SourceLosses

    def denominators(self, targets: Targets) -> dict[str, float]:
        """The task's own."""
        return self.task.denominators(targets)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """The task's own values, those of one source behind those of another."""
        return self.sources.losses(self.task.loss, outputs, targets)


def _some(outputs: Outputs, at_u: Tensor) -> Outputs:
    """The outputs of some units (u,)."""
    if isinstance(outputs, DeferredLogits):
        return replace(outputs, hidden_UD=outputs.hidden_UD[at_u])
    return outputs[at_u]

"""What tasks share that predict labels or numbers: their names, weights, losses of the recipe's choice, probabilities.

Shapes: U units, C outputs per unit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bigbatch.metrics.classify import PER_CLASS_PREFIXES, default_metrics, metric_for
from bigbatch.model.heads import Head, HeadKind, ProblemType
from bigbatch.protocols import Metric, Row, Tokenizer
from bigbatch.samples import Predictions, Sample, Table, Targets
from bigbatch.tasks.base import Task
from bigbatch.tasks.losses import (
    Kind,
    UnitLoss,
    check_weighable,
    class_weights,
    default_loss,
    positive_weights,
    resolve_loss,
)

if TYPE_CHECKING:
    from bigbatch.recipe.learning import LossSpec


PROBLEM_TYPES: Mapping[Kind, ProblemType] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
"""Kind -> how a model's configuration calls it."""


@dataclass(frozen=True, kw_only=True)
class Labelled(Task[Tensor]):
    """A task whose units have a class, several, or numbers, and whose loss the recipe may choose. Abstract."""

    labels: Sequence[str] | None = None  # type: ignore[misc]
    """Label names in class order; None: those of the training data, sorted."""

    target: ClassVar[str] = "label"
    """The role that is learnt."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names in class order; empty while unknown, and for regression of one number."""
        known = self.facts.labels
        return known.names if known else tuple(map(str, self.labels or ()))

    @override
    def with_loss(self, loss: LossSpec, folder: Path, *, where: str = "recipe") -> Self:
        """The same task with the recipe's loss. One that a task of Python was given stays, unless another is named.

        Raises:
            RecipeError: unknown loss; class weights where there are no classes.
        """
        weights = loss.class_weights or "none"
        chosen = resolve_loss(loss, folder, kind=self.kind, where=where)
        if weights != "none":
            check_weighable(self.kind, chosen, where=where)
        own = self.facts.loss
        return self.with_facts(
            loss=own if own is not None and chosen == default_loss(self.kind) else chosen,
            class_weights=self.facts.class_weights if weights == "none" else weights,
        )

    # ------------------------------------------------------------ outputs and figures

    def labelled_head(self, kind: HeadKind) -> Head:
        """A head of one output for a class, a label or a number of each sample."""
        names = self.label_names
        return Head(
            kind=kind,
            outputs=max(1, len(names)),
            id2label=dict(enumerate(names)) if names else None,
            problem_type=PROBLEM_TYPES[self.kind],
        )

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """The kind's own."""
        return default_metrics(self.kind, self.label_names)

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of `metrics.classify`."""
        return metric_for(name, self.kind, self.head.outputs, self.label_names, where=where)

    def check_metric(self, name: str, *, where: str = "recipe") -> None:
        """Refuse a name that no metric of this task has, as far as its labels are known.

        Raises:
            RecipeError: with the nearest name.
        """
        if self.label_names or not name.startswith(PER_CLASS_PREFIXES):
            self.metric(name, where=where)

    # ------------------------------------------------------------ rows to samples

    @abstractmethod
    def samples(self, rows: Sequence[Row], tokenizer: Tokenizer | None) -> list[Sample]:
        """Rows as samples, with one call of the tokenizer; rows without target have units of weight 0."""

    def encode(self, row: Row, tokenizer: Tokenizer | None) -> Sample:
        """One row (role -> value, or already tokenised) as a sample."""
        return self.finish(row, self.samples([row], tokenizer)[0])

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows at once: the same samples, with one call of the tokenizer unless `encode` is overridden.

        Rows to predict come without `finish`, whose columns they need not have, and without targets.
        """
        if type(self).encode is not Labelled.encode:
            return [self.encode(row, tokenizer) for row in rows]
        if not labelled:
            return self.samples([{**row, self.target: None, "labels": None} for row in rows], tokenizer)
        samples = self.samples(rows, tokenizer)
        return [self.finish(row, sample) for row, sample in zip(rows, samples, strict=True)]

    def finish(self, row: Row, sample: Sample) -> Sample:
        """Override to change weights or add extras from further roles; `encode_batch` stays fast.

        Called for rows to learn from and to evaluate, not for rows to predict.
        """
        del row
        return sample

    # ------------------------------------------------------------ weights, denominators, loss

    def fit(self, train: Table) -> Self:
        """The same task with its class weights computed from the units of the training table.

        Raises:
            RecipeError: a weight for a label that does not exist; class weights for a number, or for several labels
                with a loss of your own.
        """
        setting = self.facts.class_weights
        if setting == "none":
            return self
        check_weighable(self.kind, self.facts.loss)
        return self.with_facts(weights_C=weights_of_classes(setting, self.label_names, train))

    def weigh(self, targets: Targets) -> Targets:
        """The targets (numpy) with class weights multiplied into the weights of their units.

        Of several labels each has its own weight within a unit: there the loss itself knows them, and the
        denominator, torch's too, is that of the units.
        """
        return targets if self.kind == "multi" else with_class_weights(targets, self.facts.weights_C)

    @property
    def _loss(self) -> UnitLoss:
        loss = self.facts.loss or default_loss(self.kind)
        if self.kind != "multi" or self.facts.weights_C is None:
            return loss
        return replace(loss, args={**loss.args, "positive_weights_C": self.facts.weights_C})

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Sum of the weights, fp64, of weighed targets (numpy)."""
        return {self._loss.name: sum_of_weights(targets)}

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """One weighted value per unit (U,), nats (regression: squared units of the target).

        Args:
            outputs: (U, C).
            targets: weighed, as tensors on the same device.
        """
        return {self._loss.name: weighted_losses(self._loss, outputs, targets)}

    # ------------------------------------------------------------ outputs to predictions

    def decode(self, kept: Tensor | np.ndarray) -> Predictions:
        """Predictions of (U, C) outputs, computed in fp64; a label of `multi` applies above probability 1/2."""
        scores_UC = fp64(kept)
        if self.kind == "regression":
            values = scores_UC[:, 0] if scores_UC.shape[1] == 1 else scores_UC
            return Predictions(kind="regression", scores=scores_UC, probabilities=None, values=values)
        if self.kind == "multi":
            shares_UC = sigmoid(scores_UC)
            return Predictions(kind="multi", scores=scores_UC, probabilities=shares_UC, values=scores_UC > 0)
        return Predictions(
            kind="single",
            scores=scores_UC,
            probabilities=softmax(scores_UC),
            values=scores_UC.argmax(-1).astype(np.int64),
        )

    def perfect(self, targets: Targets) -> np.ndarray:
        """(U, C) float64."""
        values = np.asarray(targets.values)
        if self.kind == "single":
            classes = max(len(self.label_names), int(values.max(initial=0)) + 1)
            return np.eye(classes)[np.maximum(values, 0)]
        wide_UC = values.reshape(len(values), -1).astype(np.float64)
        return 2 * wide_UC - 1 if self.kind == "multi" else wide_UC


def weights_of_classes(
    setting: str | Mapping[str, float], names: Sequence[str], train: Table
) -> tuple[float, ...] | None:
    """Weights of the C classes from the training table's units, of labels where they apply (`multi`: zeros and ones);
    None for `none`.

    Args:
        setting: `loss.class_weights`: a rule by its name, or label -> weight.
        names: (C,) of the classes.
        train: its units of weight 0 are not counted.

    Raises:
        RecipeError: a weight for a label that does not exist.
    """
    known = np.asarray(train.values)[np.asarray(train.weights) > 0]
    if np.ndim(train.values) > 1:
        return positive_weights(setting, names, known)
    return class_weights(setting, names, known)


def with_class_weights(targets: Targets, weights_C: Sequence[float] | None) -> Targets:
    """The targets (numpy) with class weights multiplied into the weights of their units."""
    if weights_C is None:
        return targets
    classes_U = np.maximum(targets.values, 0)
    weights_U = targets.weights * np.asarray(weights_C, np.float64)[classes_U]
    return replace(targets, weights=weights_U.astype(np.float32))


def sum_of_weights(targets: Targets) -> float:
    """The denominator: sum of the weights, fp64, of prepared targets (numpy)."""
    return float(np.sum(targets.weights, dtype=np.float64))


def weighted_losses(loss: UnitLoss, outputs: Tensor, targets: Targets) -> Tensor:
    """(U,) loss of each unit times its weight. A unit of weight 0 adds exactly nothing, even where its loss is not
    finite.

    Args:
        loss: of units without their weights.
        outputs: (U, C).
        targets: of the same units, tensors on the same device.
    """
    losses_U = loss(outputs, targets)
    weights_U = targets.weights.to(losses_U.dtype)
    return torch.where(weights_U == 0, 0.0, losses_U * weights_U)


def fp64(outputs: Any) -> np.ndarray:
    """Outputs, a tensor on any device or an array, as fp64 numpy."""
    if not isinstance(outputs, np.ndarray):
        outputs = outputs.detach().cpu().double().numpy()
    return outputs.astype(np.float64)


def softmax(scores_UC: np.ndarray) -> np.ndarray:
    """Probabilities (U, C) of fp64 logits."""
    with np.errstate(invalid="ignore"):  # infinite logits of a diverged model give NaN
        exponentials_UC = np.exp(scores_UC - scores_UC.max(-1, keepdims=True))
    return exponentials_UC / exponentials_UC.sum(-1, keepdims=True)


def sigmoid(scores_UC: np.ndarray) -> np.ndarray:
    """Probabilities (U, C) of fp64 logits, each by itself."""
    small_UC = np.exp(-np.abs(scores_UC))  # never overflows
    return np.where(scores_UC >= 0, 1.0, small_UC) / (1.0 + small_UC)

"""Sequence classification: single label, multi-label and regression; one text or a pair.

A task of your own can subclass `Classify`: add a role, and change samples in `finish` (or override `encode`).

Shapes: U units (one a sample here), C outputs per unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.protocols import Metric, Role
from bigbatch.records import Predictions, Sample, Targets, TokenTable
from bigbatch.tasks.classes import (
    SET_BY_THE_RUN,
    fp64,
    softmax,
    sum_of_weights,
    weighted_losses,
    weights_of_classes,
    with_class_weights,
)
from bigbatch.tasks.heads import build_model
from bigbatch.tasks.inputs import Inputs, inputs_of_rows, is_tokenised
from bigbatch.tasks.losses import IGNORED, Kind, UnitLoss, check_weighable, default_loss
from bigbatch.tasks.metrics import PER_CLASS_PREFIXES, default_metrics, metric_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bigbatch.data.labels import LabelSet

PROBLEM_TYPES: Mapping[Kind, str] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
"""Kind -> how a model's configuration calls it."""


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Predict a label, several labels or a number from a text or a pair of texts."""

    kind: Kind = "single"
    """`single`: one of C classes; `multi`: any of C labels; `regression`: numbers."""
    labels: Sequence[str] | None = None
    """Label names in class order; None: those of the training data, sorted."""

    label_set: LabelSet | None = field(default=None, metadata=SET_BY_THE_RUN)
    """Names and ids; None for regression of one number."""
    max_length: int | None = field(default=None, metadata=SET_BY_THE_RUN)
    """Tokens kept of a sample."""
    pool: Literal["first", "last"] = field(default="first", metadata=SET_BY_THE_RUN)
    """Which token of a sample the head reads."""
    unit_loss: UnitLoss | None = field(default=None, metadata=SET_BY_THE_RUN)
    """None: the kind's own."""
    class_weight_setting: str | Mapping[str, float] = field(default="none", metadata=SET_BY_THE_RUN)
    """`loss.class_weights` of the recipe."""
    class_weights_C: tuple[float, ...] | None = field(default=None, metadata=SET_BY_THE_RUN)
    """The weights themselves, once `weighted` has seen the training table."""
    chosen_metrics: tuple[str | Metric, ...] = field(default=(), metadata=SET_BY_THE_RUN)
    """Metrics that the recipe asks for, names or objects; empty: the kind's own."""

    def __post_init__(self) -> None:
        if self.kind not in PROBLEM_TYPES:
            what = f"found {self.kind!r}; expected single, multi or regression"
            raise RecipeError([Problem(where="recipe", key="task.kind", what=what)])

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read: `text`, `pair` if there is one, and `label`."""
        target = {
            "single": Role(meaning="the class", kind="label"),
            "multi": Role(meaning="the labels that apply", kind="labels"),
            "regression": Role(meaning="the number to predict", kind="number"),
        }[self.kind]
        return {
            "text": Role(meaning="the text"),
            "pair": Role(meaning="a second text, read together with the first", required=False),
            "label": target,
        }

    @property
    def couples(self) -> Literal["sample", "batch"]:
        """The loss is a sum over samples."""
        return "sample"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluations report."""
        names = self.label_names
        if not self.chosen_metrics:
            return default_metrics(self.kind, names)
        return tuple(
            metric_for(chosen, self.kind, self.head["outputs"], names) if isinstance(chosen, str) else chosen
            for chosen in self.chosen_metrics
        )

    def check_metric(self, name: str, *, where: str = "recipe") -> None:
        """Refuse a name that no metric of this task has, as far as its labels are known.

        Raises:
            RecipeError: with the nearest name.
        """
        if self.label_names or not name.startswith(PER_CLASS_PREFIXES):
            metric_for(name, self.kind, self.head["outputs"], self.label_names, where=where)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names in class order; empty while unknown, and for regression of one number."""
        return tuple(self.label_set.names) if self.label_set else tuple(map(str, self.labels or ()))

    @property
    def head(self) -> dict[str, Any]:
        """What the model must have: `kind` of head, `outputs`, `id2label`, `problem_type` (Hugging Face's name)."""
        names = self.label_names
        return {
            "kind": "sequence",
            "outputs": max(1, len(names)),
            "id2label": dict(enumerate(names)) if names else None,
            "problem_type": PROBLEM_TYPES[self.kind],
        }

    def build(self, spec: Any, facts: Mapping[str, Any]) -> nn.Module:
        """The model of `recipe.model` with this task's head.

        Args:
            spec: `recipe.model`.
            facts: `seed`, `dropout`, `module` (a live one, or None) and `note`, told what the user should know.
        """
        return build_model(spec, self.head, facts)

    # ------------------------------------------------------------ rows to samples

    def encode(self, row: Mapping[str, Any], tokenizer: Any) -> Sample:
        """One row (role -> value, or already tokenised) as a sample."""
        return self.finish(row, self._sample(row, self._inputs([row], tokenizer)[0]))

    def encode_batch(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Sample]:
        """Many rows at once: the same samples, with one call of the tokenizer unless `encode` is overridden."""
        if type(self).encode is not Classify.encode:
            return [self.encode(row, tokenizer) for row in rows]
        inputs = self._inputs(rows, tokenizer)
        return [self.finish(row, self._sample(row, found)) for row, found in zip(rows, inputs, strict=True)]

    def encode_unlabelled(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Sample]:
        """Rows to predict: without `finish`, whose columns they need not have, and without targets."""
        if type(self).encode is not Classify.encode:
            return [self.encode(row, tokenizer) for row in rows]
        bare = [{**row, "label": None, "labels": None} for row in rows]
        return [
            self._sample(row, found) for row, found in zip(bare, self._inputs(rows, tokenizer), strict=True)
        ]

    def finish(self, row: Mapping[str, Any], sample: Sample) -> Sample:
        """Override to change weights or add extras from further roles; `encode_batch` stays fast.

        Called for rows to learn from and to evaluate, not for rows to predict.
        """
        del row
        return sample

    def _inputs(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Inputs]:
        return inputs_of_rows(rows, tokenizer, self.max_length)

    def _sample(self, row: Mapping[str, Any], inputs: Inputs) -> Sample:
        label = row.get("labels") if is_tokenised(row) else row.get("label")
        values, known = self._target(label, is_tokenised(row) and not _is_named(label))
        read = 0 if self.pool == "first" else len(inputs.ids) - 1
        return Sample(
            ids=inputs.ids,
            segments=inputs.segments,
            reads=np.array([read], np.int32),
            values=values,
            weights=np.array([1.0 if known else 0.0], np.float32),
            truncated=inputs.truncated,
        )

    def _target(self, label: Any, as_id: bool) -> tuple[np.ndarray, bool]:
        """The target of one row, and whether there is one (there is none in rows to predict).

        Args:
            label: as the row has it.
            as_id: whether it is a class id (several labels: zeros and ones), and not a name.
        """
        if self.kind == "single":
            return self._class_target(label, as_id)
        outputs = self.head["outputs"]
        if self.kind == "regression":
            numbers = (
                np.zeros(outputs, np.float32) if label is None else np.asarray(label, np.float32).reshape(-1)
            )
            if len(numbers) != outputs:
                raise DataError(f"found {len(numbers)} numbers in a label; expected {outputs}")
            return (numbers if outputs == 1 else numbers[None]), label is not None
        hot_C = np.zeros(outputs, np.float32)
        if label is not None and as_id:
            hot_C[:] = self._multi_hot(label, outputs)
        elif label is not None:
            assert self.label_set is not None
            hot_C[[self.label_set.id_of(name) for name in label]] = 1.0
        return hot_C[None], label is not None

    def _class_target(self, label: Any, as_id: bool) -> tuple[np.ndarray, bool]:
        if label is None or (as_id and int(label) == IGNORED):
            return np.array([IGNORED], np.int64), False
        if not as_id:
            assert self.label_set is not None
            value = self.label_set.id_of(label)
            return np.array([value], np.int64), value != IGNORED
        classes = len(self.label_names)
        if not 0 <= int(label) < classes:
            raise DataError(
                f"labels holds class {int(label)}; expected 0 to {classes - 1}, or {IGNORED} for none"
            )
        return np.array([int(label)], np.int64), True

    @staticmethod
    def _multi_hot(label: Any, outputs: int) -> np.ndarray:
        hot_C = np.asarray(label, np.float32)
        if hot_C.shape != (outputs,) or not np.isin(hot_C, (0, 1)).all():
            raise DataError(
                f"labels of an already tokenised row must be {outputs} zeros and ones, one a label"
            )
        return hot_C

    # ------------------------------------------------------------ weights, denominators, loss

    def weighted(self, train: TokenTable) -> Classify:
        """The same task with its class weights computed from the training table.

        Raises:
            RecipeError: a weight for a label that does not exist; class weights for a number, or for several labels
            with a loss of your own.
        """
        if self.class_weight_setting == "none":
            return self
        check_weighable(self.kind, self.unit_loss)
        weights_C = weights_of_classes(self.class_weight_setting, self.label_names, train)
        return replace(self, class_weights_C=weights_C)

    def prepare(self, targets: Targets) -> Targets:
        """The targets (numpy) with class weights multiplied into the weights of their units.

        Of several labels each has its own weight within a unit: there the loss itself knows them, and the
        denominator, torch's too, is that of the units.
        """
        return targets if self.kind == "multi" else with_class_weights(targets, self.class_weights_C)

    @property
    def _loss(self) -> UnitLoss:
        loss = self.unit_loss or default_loss(self.kind)
        if self.kind != "multi" or self.class_weights_C is None:
            return loss
        return replace(loss, args={**loss.args, "positive_weights_C": self.class_weights_C})

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Sum of the weights, fp64, of prepared targets (numpy)."""
        return {self._loss.name: sum_of_weights(targets)}

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """One weighted value per unit (U,), nats (regression: squared units of the target).

        Args:
            outputs: (U, C).
            targets: prepared, as tensors on the same device.
        """
        return {self._loss.name: weighted_losses(self._loss, outputs, targets)}

    # ------------------------------------------------------------ outputs to predictions

    def decode(self, outputs: torch.Tensor | np.ndarray) -> Predictions:
        """Predictions of (U, C) outputs, computed in fp64; a label of `multi` applies above probability 1/2."""
        scores_UC = fp64(outputs)
        if self.kind == "regression":
            values = scores_UC[:, 0] if scores_UC.shape[1] == 1 else scores_UC
            return Predictions(kind="regression", scores=scores_UC, probabilities=None, values=values)
        if self.kind == "multi":
            shares_UC = _sigmoid(scores_UC)
            return Predictions(kind="multi", scores=scores_UC, probabilities=shares_UC, values=scores_UC > 0)
        return Predictions(
            kind="single",
            scores=scores_UC,
            probabilities=softmax(scores_UC),
            values=scores_UC.argmax(-1).astype(np.int64),
        )


def _is_named(label: Any) -> bool:
    """Whether a label of a row of token ids is a name of a class, or a list of such."""
    entries = label if isinstance(label, list) else [label]
    return not entries or any(isinstance(entry, str) for entry in entries)


def _sigmoid(scores_UC: np.ndarray) -> np.ndarray:
    small_UC = np.exp(-np.abs(scores_UC))  # never overflows
    return np.where(scores_UC >= 0, 1.0, small_UC) / (1.0 + small_UC)

"""Sequence classification: single label, multi-label and regression; one text or a pair.

A task of your own can subclass `Classify`: add a role, and change samples in `finish` (or override `encode`).

Shapes: U units (one a sample here), C outputs per unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from typing_extensions import override

from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.model.heads import Head
from bigbatch.protocols import Role, Row, Tokenizer
from bigbatch.samples import Sample, Table
from bigbatch.tasks.inputs import Inputs, inputs_of_rows, is_tokenised
from bigbatch.tasks.labelled import PROBLEM_TYPES, Labelled
from bigbatch.tasks.losses import IGNORED, Kind
from bigbatch.tasks.strands import Strands, check_share, complements_of, strand_states


@dataclass(frozen=True, kw_only=True)
class Classify(Labelled):
    """Predict a label, several labels or a number from a text or a pair of texts."""

    kind: Kind = "single"  # type: ignore[assignment]
    """`single`: one of C classes; `multi`: any of C labels; `regression`: numbers."""

    reverse_complement: float | None = None
    """Share of the samples that are read as the other strand of a sequence of nucleotides, drawn anew each epoch."""

    def __post_init__(self) -> None:
        if self.kind not in PROBLEM_TYPES:
            what = f"found {self.kind!r}; expected single, multi or regression"
            raise RecipeError([Problem(where="recipe", key="task.kind", what=what)])
        check_share(self.reverse_complement)

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
    def head(self) -> Head:
        """One output for a class, a label or a number."""
        return self.labelled_head("sequence")

    @property
    def title(self) -> str:
        """Of the model card."""
        return "Text regressor" if self.kind == "regression" else super().title

    # ------------------------------------------------------------ rows to samples

    def samples(self, rows: Sequence[Row], tokenizer: Tokenizer | None) -> list[Sample]:
        """Rows as samples, with one call of the tokenizer."""
        inputs = inputs_of_rows(rows, tokenizer, self.facts.max_length)
        return [self._sample(row, found) for row, found in zip(rows, inputs, strict=True)]

    @property
    def has_view(self) -> bool:
        """Whether some are read as the other strand."""
        return bool(self.reverse_complement)

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows, some of them as the other strand."""
        strands = Strands(share=self.reverse_complement or 0.0, complements_V=self._complements)
        return strands.turned(table, rows_B, strand_states(self.facts.data_seed, epochs_B, rows_B))

    @cached_property
    def _complements(self) -> np.ndarray:
        return complements_of(self.facts.tokenizer)

    def _sample(self, row: Row, inputs: Inputs) -> Sample:
        if self.reverse_complement and row.get("pair") is not None:
            raise DataError("task.reverse_complement: a row of two texts has no other strand; leave one out")
        label = row.get("labels") if is_tokenised(row) else row.get("label")
        values, known = self._target(label, is_tokenised(row) and not _is_named(label))
        read = 0 if self.facts.pools == "first" else len(inputs.ids) - 1
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
        outputs = self.head.outputs
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
            assert self.facts.labels is not None
            hot_C[[self.facts.labels.id_of(name) for name in label]] = 1.0
        return hot_C[None], label is not None

    def _class_target(self, label: Any, as_id: bool) -> tuple[np.ndarray, bool]:
        if label is None or (as_id and int(label) == IGNORED):
            return np.array([IGNORED], np.int64), False
        if not as_id:
            assert self.facts.labels is not None
            value = self.facts.labels.id_of(label)
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


def _is_named(label: Any) -> bool:
    """Whether a label of a row of token ids is a name of a class, or a list of such."""
    entries = label if isinstance(label, list) else [label]
    return not entries or any(isinstance(entry, str) for entry in entries)

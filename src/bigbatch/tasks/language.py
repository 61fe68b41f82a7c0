"""What masked and causal language models share: loss, figures and predictions of tokens, in chunks of logits.

    loss = sum over predicted tokens  w_t (-log softmax(logits_t)[token_t])  /  sum of w_t over the global batch

Shapes: U units (predicted tokens), V token ids, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions, functional

from bigbatch.errors import Problem, RecipeError
from bigbatch.model.logits import DeferredLogits
from bigbatch.protocols import Metric, Role
from bigbatch.records import Predictions, Targets, TokenTable
from bigbatch.tasks.losses import IGNORED
from bigbatch.tasks.low_entropy import low_entropy
from bigbatch.tasks.perplexity import language_metrics

TERM = "cross_entropy"
_WHOLE_CHUNK_ROWS = 1024
"""Units of logits that are there already that are read at a time."""


def surprise_U(outputs: Tensor | DeferredLogits, values_U: Tensor) -> Tensor:
    """-log softmax(logits)[value] of each unit, nats (U,); units of value -100 give 0. Its backward computes the
    logits again, chunk by chunk.
    """
    if isinstance(outputs, DeferredLogits):
        return _chunked(outputs, values_U, "none")
    return functional.cross_entropy(_at_least_fp32(outputs), values_U.long(), reduction="none")


def surprise(outputs: Tensor | DeferredLogits, values_U: Tensor) -> Tensor:
    """The sum over units (), with gradients computed on the way forward: a third faster than one value a unit."""
    if isinstance(outputs, DeferredLogits):
        return _chunked(outputs, values_U, "sum")
    return functional.cross_entropy(_at_least_fp32(outputs), values_U.long(), reduction="sum")


def _chunked(outputs: DeferredLogits, values_U: Tensor, reduction: Literal["none", "sum"]) -> Tensor:
    hidden_UD = outputs.hidden_UD
    if not len(hidden_UD):
        nothing_U = hidden_UD.sum(-1)
        return nothing_U if reduction == "none" else nothing_U.sum()
    if outputs.low is not None:
        return low_entropy(
            hidden_UD, outputs.weight_VD, outputs.bias_V, values_U.long(),
            dtype=outputs.low, rows=outputs.chunk_rows, summed=reduction == "sum",
        )  # fmt: skip
    weight_VD, bias_V = outputs.factors()
    return functional.linear_cross_entropy(
        hidden_UD,
        weight_VD,
        values_U.long(),
        linear_bias=bias_V,
        reduction=reduction,
        ignore_index=IGNORED,
        options=LinearCrossEntropyOptions(batch_chunk_size=outputs.chunk_rows, chunking_method=None),
    )


def _at_least_fp32(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def logits_in_parts(outputs: Tensor | DeferredLogits) -> Iterator[tuple[slice, Tensor]]:
    """(units, their logits in at least fp32), some at a time, in order."""
    rows = outputs.chunk_rows if isinstance(outputs, DeferredLogits) else _WHOLE_CHUNK_ROWS
    for first in range(0, len(outputs), rows):
        part = slice(first, min(first + rows, len(outputs)))
        logits_UV = outputs.logits(part) if isinstance(outputs, DeferredLogits) else outputs[part]
        yield part, _at_least_fp32(logits_UV)


class LanguageModelling:
    """The half of a language-model task that does not depend on which tokens are predicted. Abstract."""

    chosen_metrics: tuple[str | Metric, ...]
    whole_weights: bool
    known_metrics: tuple[str, ...]
    """Names of the metrics of this task, those that are always reported first."""

    @property
    def roles(self) -> Mapping[str, Role]:
        """The one column that is read: `text`."""
        return {"text": Role(meaning="the text")}

    @property
    def couples(self) -> Literal["sample", "batch"]:
        """The loss is a sum over tokens."""
        return "sample"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluations report."""
        known = language_metrics()
        names = self.chosen_metrics or self.known_metrics
        return tuple(known[name] if isinstance(name, str) else name for name in names)

    def check_metric(self, name: str, *, where: str = "recipe") -> None:
        """Refuse a name that no metric of this task has.

        Raises:
            RecipeError: with the names there are.
        """
        if name not in self.known_metrics:
            what = f"unknown metric {name!r} for a language model (known: {', '.join(self.known_metrics)})"
            raise RecipeError([Problem(where=where, key="metrics", what=what)])

    def check_loss(self, loss: Any, *, where: str = "recipe") -> None:
        """Refuse what `loss:` of a recipe asks for beyond cross-entropy of tokens.

        Raises:
            RecipeError: naming the key.
        """
        found = {
            "name": loss.name != TERM,
            "label_smoothing": bool(loss.label_smoothing),
            "class_weights": loss.class_weights != "none",
            "args": bool(loss.args),
        }
        what = "a language model's loss is the cross-entropy of its tokens, without options; leave it out"
        problems = [
            Problem(where=where, key=f"loss.{key}", what=what) for key, asked in found.items() if asked
        ]
        if problems:
            raise RecipeError(problems)

    # ------------------------------------------------------------ weights, denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Predicted tokens: the sum of their weights, fp64 (numpy)."""
        return {TERM: float(np.sum(targets.weights, dtype=np.float64))}

    def loss(self, outputs: Tensor | DeferredLogits, targets: Targets) -> dict[str, Tensor]:
        """Sum over units (), nats, when no weight is a fraction; else one weighted value per unit (U,).

        Args:
            outputs: (U, V) logits, or their factors.
            targets: as tensors on the same device.
        """
        values_U = torch.where(targets.weights == 0, IGNORED, targets.values.long())
        if self.whole_weights:
            return {TERM: surprise(outputs, values_U)}
        losses_U = surprise_U(outputs, values_U)
        return {TERM: losses_U * targets.weights.to(losses_U.dtype)}

    # ------------------------------------------------------------ evaluation

    def reduce(self, outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
        """(U, 2) float64: -log probability of the true token, nats; 1 where it is the likeliest, else 0."""
        values_U = targets.values.long()
        reduced_U2 = torch.zeros(len(values_U), 2, dtype=torch.float64, device=values_U.device)
        for part, logits_UV in logits_in_parts(outputs):
            reduced_U2[part, 0] = functional.cross_entropy(
                logits_UV, values_U[part], reduction="none"
            ).double()
            reduced_U2[part, 1] = (logits_UV.argmax(-1) == values_U[part]).double()
        return reduced_U2

    def reduced_loss(self, reduced_U2: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """Weighted value of each unit (U,) float64."""
        weights_U = np.asarray(targets.weights, np.float64)
        return {TERM: np.where(weights_U == 0, 0.0, reduced_U2[:, 0] * weights_U)}

    def decode(self, outputs: Any) -> Predictions:
        """What `reduce` kept, for the metrics."""
        reduced_U2 = np.asarray(outputs, np.float64)
        return Predictions(
            kind="language", scores=reduced_U2, probabilities=None, values=reduced_U2[:, 1] > 0.5
        )


def has_whole_weights(table: TokenTable) -> bool:
    """Whether every unit counts once or not at all."""
    return bool(np.isin(np.asarray(table.weights), (0.0, 1.0)).all())

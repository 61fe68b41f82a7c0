"""What tasks that predict tokens share (masked, causal, sequence to sequence): loss and figures, in chunks of logits.

    loss = sum over predicted tokens  w_t (-log softmax(logits_t)[token_t])  /  sum of w_t over the global batch

Shapes: U units (predicted tokens), V token ids, D hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions, functional

from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.perplexity import language_metrics
from bigbatch.model.logits import DeferredLogits
from bigbatch.model.low_entropy import low_entropy
from bigbatch.protocols import Json, Metric, Role
from bigbatch.samples import Predictions, Table, Targets
from bigbatch.tasks.base import Task
from bigbatch.tasks.losses import IGNORED

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


def smoothed_U(outputs: Tensor | DeferredLogits, values_U: Tensor, smoothing: float) -> Tensor:
    """(1 - s) (-log p[value]) + s mean over the vocabulary of -log p, of each unit, nats (U,); of value -100: 0.

    It is -log p[value] + s (logit of the value - mean logit), and a mean of logits is that of the layer's rows: no more
    logits are computed than without smoothing.

    Args:
        outputs: (U, V) logits, or their factors.
        values_U: (U,) token ids, or -100.
        smoothing: s.
    """
    return surprise_U(outputs, values_U) + smoothing * _above_mean_U(outputs, values_U)


def smoothed(outputs: Tensor | DeferredLogits, values_U: Tensor, smoothing: float) -> Tensor:
    """The sum of `smoothed_U` over units (), with gradients computed on the way forward (`surprise`).

    Args:
        outputs, values_U, smoothing: as of `smoothed_U`.
    """
    return surprise(outputs, values_U) + smoothing * _above_mean_U(outputs, values_U).sum()


def _above_mean_U(outputs: Tensor | DeferredLogits, values_U: Tensor) -> Tensor:
    """The logit of each unit's value less the mean over the vocabulary (U,); of value -100: 0."""
    known_U = values_U.clamp(min=0)
    if isinstance(outputs, DeferredLogits):
        hidden_UD, (weight_VD, bias_V) = outputs.hidden_UD, outputs.factors()
        own_U = (hidden_UD * functional.embedding(known_U, weight_VD)).sum(-1)
        mean_U = hidden_UD @ weight_VD.mean(0)
        if bias_V is not None:
            own_U, mean_U = own_U + bias_V[known_U], mean_U + bias_V.mean()
    else:
        logits_UV = _at_least_fp32(outputs)
        own_U, mean_U = logits_UV.gather(1, known_U[:, None])[:, 0], logits_UV.mean(-1)
    return torch.where(values_U == IGNORED, 0.0, own_U - mean_U)


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


@dataclass(frozen=True, kw_only=True)
class PredictedTokens(Task[Tensor | DeferredLogits]):
    """The half of a task that does not depend on which tokens are predicted, nor from what. Abstract."""

    known_metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics of this task."""
    further_metrics: ClassVar[tuple[str, ...]] = ()
    """Those that are reported only where somebody asks for them."""
    loss_is_own = "a language model's loss is the cross-entropy of its tokens, without options; leave it out"

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """All there are."""
        known = language_metrics()
        return tuple(known[name] for name in self.known_metrics)

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """One of these.

        Raises:
            RecipeError: with the names there are.
        """
        if name not in self.known_metrics:
            known = ", ".join((*self.known_metrics, *self.further_metrics))
            what = f"unknown metric {name!r} for a language model (known: {known})"
            raise RecipeError([Problem(where=where, key="metrics", what=what)])
        return language_metrics()[name]

    # ------------------------------------------------------------ weights, denominators, loss

    def fit(self, train: Table) -> Self:
        """The same task, told whether a sum may stand for weighted values."""
        return self.with_facts(whole_weights=bool(np.isin(np.asarray(train.weights), (0.0, 1.0)).all()))

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
        if self.facts.whole_weights:
            return {TERM: surprise(outputs, values_U)}
        losses_U = surprise_U(outputs, values_U)
        return {TERM: losses_U * targets.weights.to(losses_U.dtype)}

    # ------------------------------------------------------------ evaluation

    def keep(self, outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
        """(U, 2) float64: -log probability of the true token, nats; 1 where it is the likeliest, else 0."""
        values_U = targets.values.long()
        kept_U2 = torch.zeros(len(values_U), 2, dtype=torch.float64, device=values_U.device)
        for part, logits_UV in logits_in_parts(outputs):
            kept_U2[part, 0] = functional.cross_entropy(logits_UV, values_U[part], reduction="none").double()
            kept_U2[part, 1] = (logits_UV.argmax(-1) == values_U[part]).double()
        return kept_U2

    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """Weighted value of each unit (U,) float64."""
        weights_U = np.asarray(targets.weights, np.float64)
        return {TERM: np.where(weights_U == 0, 0.0, kept[:, 0] * weights_U)}

    def decode(self, kept: np.ndarray) -> Predictions:
        """What `keep` kept, for the metrics."""
        kept_U2 = np.asarray(kept, np.float64)
        return Predictions(kind="language", scores=kept_U2, probabilities=None, values=kept_U2[:, 1] > 0.5)

    def perfect(self, targets: Targets) -> np.ndarray:
        """No surprise; the likeliest token is the true one (U, 2)."""
        return np.tile([0.0, 1.0], (len(np.asarray(targets.values)), 1))


@dataclass(frozen=True, kw_only=True)
class LanguageModelling(PredictedTokens):
    """A language model of one text a row, masked or causal. Abstract."""

    blocks: Literal["documents", "fixed"] = "documents"
    """`documents`: each row by itself, cut at max_length (clm: into pieces of it); `fixed`: all rows joined, cut into
    blocks of max_length."""

    def __post_init__(self) -> None:
        if self.blocks not in ("documents", "fixed"):
            what = f"found {self.blocks!r}; expected documents or fixed"
            raise RecipeError([Problem(where="recipe", key="task.blocks", what=what)])

    @property
    def roles(self) -> Mapping[str, Role]:
        """The one column that is read: `text`."""
        return {"text": Role(meaning="the text")}

    @property
    def joins_rows(self) -> bool:
        """With fixed blocks."""
        return self.blocks == "fixed"


def told_surprise(nll: float, tokens: int) -> dict[str, Json]:
    """Nats of all tokens of a text, how many those are, exp(nll / tokens); None where nothing is known."""
    mean = nll / tokens if tokens else math.nan
    known = math.isfinite(mean)
    return {
        "nll": nll if known else None,
        "tokens": tokens,
        "perplexity": math.exp(mean) if known and mean < 709 else None,
    }

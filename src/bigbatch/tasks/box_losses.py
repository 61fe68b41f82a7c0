"""Losses of boxes: which of those that a model gives stands for which thing, and how far they are off.

    match(image) = argmin over one-to-one pairs of  sum of  a (-p[class]) + b |box - box*|_1 + c (-giou(box, box*))

    label: -w[y] log p[y] of every box that is given; y the class of the thing that it is matched to, or no object
    box:   b |box - box*|_1 of every pair          giou:  c (1 - giou(box, box*)) of every pair

(Carion et al. 2020, DETR; Kuhn 1955 for the matching). A match is that of one image alone, so it does not depend on how
a batch is cut. What sums are divided by is known from data: pairs are as many as things, or as boxes where there are
more things than these.

A detector without an output for "no object" (RT-DETR, Zhao et al. 2023) is taught with p = sigmoid and the varifocal
loss (Zhang et al. 2021), each of its sets of boxes with a matching of its own; u is the overlap of a matched box:

    match:  2 a (.25 (1 - p)^2 (-log p) - .75 p^2 (-log(1 - p))) in place of -a p
    label:  (.75 p^2 (1 - y) + u y) (y 0 or 1; binary cross-entropy of p and u y), summed over classes;
            the p and u that weigh have no gradient

Shapes: U units, Q boxes that are given of an image, n things on it, M pairs, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bigbatch.data.boxes import BOX, CLASS, FIRST, LEARNT, QUERY, has, pairwise
from bigbatch.errors import ModelError
from bigbatch.tasks.labelled import sigmoid, softmax

MISSING = (
    "task: detect needs scipy, which is not installed: pip install 'bigbatch[detect]' (or: pip install scipy)"
)
TERMS = ("label", "box", "giou")
_WORST = 1e30
"""Cost of a pair that has none: it is chosen where there is no other."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a class, a coordinate and an overlap weigh, in the matching and in the loss alike."""

    label: float = 1.0
    box: float = 5.0
    giou: float = 2.0


def assigned(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs of least total cost, min(Q, n) of them, by ascending row.

    Args:
        costs: (Q, n); what is not finite is chosen last.

    Raises:
        ModelError: scipy is not installed.

    Example:
        >>> [found.tolist() for found in assigned(np.array([[4.0, 1.0], [2.0, 0.0], [3.0, 2.0]]))]
        [[0, 1], [1, 0]]
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ModelError(MISSING) from None
    return linear_sum_assignment(np.nan_to_num(costs, nan=_WORST, posinf=_WORST, neginf=_WORST))


def matched(
    outputs: np.ndarray, values: np.ndarray, costs: Costs, *, alone: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(M,) units whose boxes are matched, and (M,) the units in which the things lie that they stand for.

    Args:
        outputs: (U, C + 1 + 4) float64: logits with no object last, and the box.
        values: (U, 9) of `data.boxes`, of whole images.
        costs: of a pair.
        alone: whether each class has a probability of its own, and there is no logit of no object.
    """
    starts = np.flatnonzero(has(values, FIRST))
    given_U, learnt_U = has(values, QUERY), has(values, LEARNT)
    boxes, things = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        at = start + np.flatnonzero(learnt_U[start:end])
        if not len(at):
            continue
        queries = start + np.flatnonzero(given_U[start:end])
        own, wanted = outputs[queries, -4:], values[at, BOX]
        likely_QC = _focal(outputs[queries, :-4]) if alone else softmax(outputs[queries, :-4])
        total = -costs.label * likely_QC[:, values[at, CLASS].astype(np.int64)]
        total += costs.box * np.abs(own[:, None] - wanted[None]).sum(-1)
        total -= costs.giou * pairwise(own, wanted)[1]
        rows, columns = assigned(total)
        boxes.append(queries[rows])
        things.append(at[columns])
    return np.concatenate(boxes), np.concatenate(things)


def _focal(logits: np.ndarray) -> np.ndarray:
    """What stands in for a probability in the matching, of the same shape: transformers' constants, its 1e-8 too."""
    shares = sigmoid(logits)
    no, yes = 0.75 * shares**2 * -np.log(1 - shares + 1e-8), 0.25 * (1 - shares) ** 2 * -np.log(shares + 1e-8)
    return 2.0 * (no - yes)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """(M,) generalised intersection over union of pairs: 1 for the same box, towards -1 far apart.

    Args:
        boxes: (M, 4) centre, width, height.
        others: (M, 4).

    Reference:
        Rezatofighi et al. 2019, arXiv 1902.09630; differs from it in nothing.

    Example:
        >>> one = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
        >>> giou(one, one).tolist(), round(giou(one, one + torch.tensor([2.0, 0, 0, 0])).item(), 4)
        ([1.0], -0.3333)
    """
    one, other = _corners(boxes), _corners(others)
    inner = (torch.minimum(one[1], other[1]) - torch.maximum(one[0], other[0])).clamp(min=0).prod(-1)
    outer = (torch.maximum(one[1], other[1]) - torch.minimum(one[0], other[0])).prod(-1)
    union = boxes[:, 2:].prod(-1) + others[:, 2:].prod(-1) - inner
    return inner / union - (outer - union) / outer


def _overlap(boxes: Tensor, others: Tensor) -> Tensor:
    one, other = _corners(boxes), _corners(others)
    inner = (torch.minimum(one[1], other[1]) - torch.maximum(one[0], other[0])).clamp(min=0).prod(-1)
    return inner / (boxes[:, 2:].prod(-1) + others[:, 2:].prod(-1) - inner)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    return middle - half, middle + half


def box_losses(
    outputs: Tensor, values: Tensor, weights: Tensor, costs: Costs, no_object: float
) -> dict[str, Tensor]:
    """Per term one weighted value a unit (U,).

    Args:
        outputs: (U, C + 1 + 4) of whole images, in fp32 at least.
        values: (U, 9) of `data.boxes`.
        weights: (U,) equal for all units of an image.
        costs: what terms weigh.
        no_object: weight of the term of classes where a box stands for nothing.
    """
    told, (at_M, things_M) = _pairs(outputs, values, costs, alone=False)
    logits = outputs[:, :-4]
    nothing = logits.shape[-1] - 1
    wanted_U = torch.full((len(values),), nothing, device=outputs.device)
    wanted_U[at_M] = values[things_M, CLASS].long()
    given_U = torch.from_numpy(has(told, QUERY)).to(outputs.device)
    weights = weights.to(outputs.dtype)
    counts_U = weights * given_U * torch.ones_like(weights).masked_fill(wanted_U == nothing, no_object)
    losses_U = functional.cross_entropy(logits, wanted_U, reduction="none")
    label = costs.label * torch.where(counts_U == 0, 0.0, losses_U * counts_U)
    return {"label": label, **_off(outputs, values, weights, costs, (at_M, things_M))}


def varifocal_losses(
    outputs: Tensor, values: Tensor, weights: Tensor, costs: Costs, *, width: int, rounds: int
) -> dict[str, Tensor]:
    """Per term one weighted value a unit (U,), summed over a detector's sets of boxes.

    Args:
        outputs: (U, R (C + 4)) of whole images, in fp32 at least: R sets, of each logits and the box.
        values: (U, 9) of `data.boxes`.
        weights: (U,) equal for all units of an image.
        costs: what terms weigh.
        width: columns of a set, C + 4.
        rounds: how many sets are taught, the first ones.
    """
    weights, sets = weights.to(outputs.dtype), []
    for one in outputs.unflatten(1, (-1, width)).unbind(1)[:rounds]:
        told, (at_M, things_M) = _pairs(one, values, costs, alone=True)
        logits, boxes = one[:, :-4], values[things_M][:, BOX].to(one.dtype)
        wanted_UC = torch.zeros_like(logits)
        wanted_UC[at_M, values[things_M, CLASS].long()] = 1.0
        overlaps_U1 = torch.zeros_like(logits[:, :1])
        overlaps_U1[at_M, 0] = _overlap(one[at_M, -4:].detach(), boxes)
        counts_UC = 0.75 * logits.detach().sigmoid() ** 2 * (1 - wanted_UC) + overlaps_U1 * wanted_UC
        losses_UC = functional.binary_cross_entropy_with_logits(
            logits, overlaps_U1 * wanted_UC, weight=counts_UC, reduction="none"
        )
        counts_U = weights * torch.from_numpy(has(told, QUERY)).to(one.device)
        label = costs.label * torch.where(counts_U == 0, 0.0, losses_UC.sum(-1) * counts_U)
        sets.append({"label": label, **_off(one, values, weights, costs, (at_M, things_M))})
    return {term: torch.stack([each[term] for each in sets]).sum(0) for term in sets[0]}


def _pairs(
    outputs: Tensor, values: Tensor, costs: Costs, *, alone: bool
) -> tuple[np.ndarray, tuple[Tensor, Tensor]]:
    """The values on the host, and `matched`: there, in fp64, with one copy a micro-batch."""
    told = values.detach().cpu().double().numpy()
    found = matched(outputs.detach().cpu().double().numpy(), told, costs, alone=alone)
    return told, (
        torch.from_numpy(found[0]).to(outputs.device),
        torch.from_numpy(found[1]).to(outputs.device),
    )


def _off(
    outputs: Tensor, values: Tensor, weights: Tensor, costs: Costs, pairs: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """How far the boxes of pairs are from their things, per term (U,)."""
    at_M, things_M = pairs
    boxes, wanted = outputs[at_M, -4:], values[things_M][:, BOX].to(outputs.dtype)
    zeros_U = torch.zeros_like(outputs[:, 0])
    return {
        "box": costs.box * zeros_U.index_add(0, at_M, (boxes - wanted).abs().sum(-1) * weights[at_M]),
        "giou": costs.giou * zeros_U.index_add(0, at_M, (1 - giou(boxes, wanted)) * weights[at_M]),
    }


def box_denominators(values: np.ndarray, weights: np.ndarray, no_object: float | None) -> dict[str, float]:
    """What each term is divided by: of boxes the things that are learnt; of classes the weights of all boxes given.

    Args:
        values: (U, 9) of whole images.
        weights: (U,).
        no_object: as of `box_losses`; None of `varifocal_losses`, whose classes are divided by the things, too.
    """
    starts = np.flatnonzero(has(values, FIRST))
    if not len(starts):
        return {"label": 0.0, "box": 0.0, "giou": 0.0}
    given_B, learnt_B = (
        np.add.reduceat(has(values, flag).astype(np.float64), starts) for flag in (QUERY, LEARNT)
    )
    weights_B, pairs_B = np.asarray(weights, np.float64)[starts], np.minimum(given_B, learnt_B)
    things = float((weights_B * learnt_B).sum())
    if no_object is None:
        return {"label": things, "box": things, "giou": things}
    classes = weights_B * (pairs_B + no_object * (given_B - pairs_B))
    return {"label": float(classes.sum()), "box": things, "giou": things}

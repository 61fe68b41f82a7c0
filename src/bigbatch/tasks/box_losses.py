"""Losses of boxes: which of those that a model gives stands for which thing, and how far they are off.

    match(image) = argmin over one-to-one pairs of  sum of  a (-p[class]) + b |box - box*|_1 + c (-giou(box, box*))

    label: -w[y] log p[y] of every box that is given; y the class of the thing that it is matched to, or no object
    box:   b |box - box*|_1 of every pair          giou:  c (1 - giou(box, box*)) of every pair

(Carion et al. 2020, DETR; Kuhn 1955 for the matching). A match is that of one image alone, so it does not depend on how
a batch is cut. What sums are divided by is known from data: pairs are as many as things, or as boxes where there are
more things than these.

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
from bigbatch.tasks.labelled import softmax

MISSING = (
    "task: detect needs scipy, which is not installed: pip install 'bigbatch[detect]' (or: pip install scipy)"
)
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


def matched(outputs: np.ndarray, values: np.ndarray, costs: Costs) -> tuple[np.ndarray, np.ndarray]:
    """(M,) units whose boxes are matched, and (M,) the units in which the things lie that they stand for.

    Args:
        outputs: (U, C + 1 + 4) float64: logits with no object last, and the box.
        values: (U, 9) of `data.boxes`, of whole images.
        costs: of a pair.
    """
    starts = np.flatnonzero(has(values, FIRST))
    given_U, learnt_U = has(values, QUERY), has(values, LEARNT)
    boxes, things = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        at = start + np.flatnonzero(learnt_U[start:end])
        if not len(at):
            continue
        queries = start + np.flatnonzero(given_U[start:end])
        shares_QC = softmax(outputs[queries, :-4])
        own, wanted = outputs[queries, -4:], values[at, BOX]
        total = -costs.label * shares_QC[:, values[at, CLASS].astype(np.int64)]
        total += costs.box * np.abs(own[:, None] - wanted[None]).sum(-1)
        total -= costs.giou * pairwise(own, wanted)[1]
        rows, columns = assigned(total)
        boxes.append(queries[rows])
        things.append(at[columns])
    return np.concatenate(boxes), np.concatenate(things)


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
    logits, boxes = outputs[:, :-4], outputs[:, -4:]
    told = values.detach().cpu().double().numpy()
    # On the host, in fp64: one copy a micro-batch.
    pairs = matched(outputs.detach().cpu().double().numpy(), told, costs)
    at_M, things_M = (torch.from_numpy(each).to(outputs.device) for each in pairs)
    nothing = logits.shape[-1] - 1
    wanted_U = torch.full((len(values),), nothing, device=outputs.device)
    wanted_U[at_M] = values[things_M, CLASS].long()
    given_U = torch.from_numpy(has(told, QUERY)).to(outputs.device)
    weights = weights.to(outputs.dtype)
    counts_U = weights * given_U * torch.ones_like(weights).masked_fill(wanted_U == nothing, no_object)
    losses_U = functional.cross_entropy(logits, wanted_U, reduction="none")
    off_M = (boxes[at_M] - values[things_M][:, BOX].to(boxes.dtype)).abs().sum(-1)
    apart_M = 1 - giou(boxes[at_M], values[things_M][:, BOX].to(boxes.dtype))
    zeros_U = torch.zeros_like(losses_U)
    return {
        "label": costs.label * torch.where(counts_U == 0, 0.0, losses_U * counts_U),
        "box": costs.box * zeros_U.index_add(0, at_M, off_M * weights[at_M]),
        "giou": costs.giou * zeros_U.index_add(0, at_M, apart_M * weights[at_M]),
    }


def box_denominators(values: np.ndarray, weights: np.ndarray, no_object: float) -> dict[str, float]:
    """What each term is divided by: of boxes the things that are learnt; of classes the weights of all boxes given.

    Args:
        values: (U, 9) of whole images.
        weights: (U,).
        no_object: as of `box_losses`.
    """
    starts = np.flatnonzero(has(values, FIRST))
    if not len(starts):
        return {"label": 0.0, "box": 0.0, "giou": 0.0}
    given_B, learnt_B = (
        np.add.reduceat(has(values, flag).astype(np.float64), starts) for flag in (QUERY, LEARNT)
    )
    weights_B, pairs_B = np.asarray(weights, np.float64)[starts], np.minimum(given_B, learnt_B)
    classes = weights_B * (pairs_B + no_object * (given_B - pairs_B))
    things = float((weights_B * learnt_B).sum())
    return {"label": float(classes.sum()), "box": things, "giou": things}

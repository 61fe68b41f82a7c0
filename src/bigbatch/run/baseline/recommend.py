"""Baselines of recommendation: what is popular, what comes after the last item, and what goes with the items of a user.

    popular      items by how often training has them
    next_item    items by how often they came right behind the last one, and then by how popular they are
    item_knn     sum over the items of a user of the cosine between two items' sets of users, of each item's 100 nearest
                 (Deshpande and Karypis 2004)

Items are ranked by the task itself, so those that a user had are left out where the run leaves them out.

Shapes: U units, V rows of the embedding, H items of a history, E events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from bigbatch.data.histories import ITEM
from bigbatch.data.item_windows import SEEN
from bigbatch.model.sequential import UNKNOWN, ids_of
from bigbatch.run.baseline.model import Baseline, Split
from bigbatch.samples import Predictions
from bigbatch.tasks.recommend import Recommend

POPULAR, NEXT, KNN = "popular", "next_item", "item_knn"
NEAREST = 100
_MOST_ITEMS = 10_000
"""Above it a table of pairs takes more than 400 MB."""
_AT_A_TIME = 256


def recommend_baselines(task: Recommend, train: Split) -> Iterator[Baseline]:
    """Those of `task: recommend`.

    Args:
        task: which ranks, and says how large the vocabulary is.
        train: the histories to learn from.
    """
    rows = 0 if task.facts.vocabulary is None else task.facts.vocabulary.size
    ids_E, users_E = _events(task, train)
    popular_V = np.bincount(ids_E, minlength=rows).astype(np.float64) + 0.5
    log_V = torch.from_numpy(np.log(popular_V / popular_V.sum()))
    many = rows > _MOST_ITEMS
    note = f"the only one: {NEXT} and {KNN} take a table of all pairs of items, and {rows:,} are above {_MOST_ITEMS:,}"
    yield Baseline(
        name=POPULAR,
        outputs=_ranking(task, lambda seen_UH: log_V.expand(len(seen_UH), -1)),
        note=note if many else "",
    )
    if many:
        return
    same_E = users_E[1:] == users_E[:-1]
    pairs = ids_E[:-1][same_E] * rows + ids_E[1:][same_E]
    behind_VV = torch.from_numpy(
        np.bincount(pairs, minlength=rows * rows).reshape(rows, rows).astype(np.float32)
    )
    # The last item of a history is the latest one: a row is filled up with the first.
    yield Baseline(
        name=NEXT,
        outputs=_ranking(task, lambda seen_UH: behind_VV[_last(seen_UH)].double() + log_V.exp(), nats=False),
    )
    near_VV = _near(ids_E, users_E, rows)

    def together(seen_UH: Tensor) -> Tensor:
        had_UV = torch.zeros(len(seen_UH), rows).scatter_(1, seen_UH, 1.0)
        return (had_UV @ near_VV).double()

    yield Baseline(name=KNN, outputs=_ranking(task, together, nats=False))


def _events(task: Recommend, train: Split) -> tuple[np.ndarray, np.ndarray]:
    """(E,) int64 known items of all histories, one behind the other, and whose each is."""
    column = train.rows.rows.column("input_ids" if train.rows.tokenised else ITEM).to_pylist()
    lengths = [len(own) for own in column]
    flat = [item for own in column for item in own]
    if not train.rows.tokenised:
        assert task.facts.tokenizer is not None
        flat = ids_of(task.facts.tokenizer, flat)
    ids_E, users_E = np.array(flat, np.int64), np.repeat(np.arange(len(column)), lengths)
    known_E = np.ones(len(ids_E), bool) if train.rows.tokenised else ids_E != UNKNOWN
    return ids_E[known_E], users_E[known_E]


def _last(seen_UH: Tensor) -> Tensor:
    """(U,) the last item of each history: behind it stands only the first one again."""
    differs_UH = seen_UH != seen_UH[:, :1]
    places_H = torch.arange(seen_UH.shape[1])
    last_U = torch.where(differs_UH, places_H, 0).amax(1)
    return seen_UH.gather(1, last_U[:, None])[:, 0]


def _near(ids_E: np.ndarray, users_E: np.ndarray, rows: int) -> Tensor:
    """(V, V) cosines of the sets of users of two items; of each item its nearest alone, and not itself."""
    together_VV = torch.zeros(rows, rows)
    for first in range(0, int(users_E.max(initial=-1)) + 1, 1024):
        own_E = (users_E >= first) & (users_E < first + 1024)
        had_UV = torch.zeros(1024, rows)
        had_UV[torch.from_numpy(users_E[own_E] - first), torch.from_numpy(ids_E[own_E])] = 1.0
        together_VV += had_UV.T @ had_UV
    norms_V = together_VV.diagonal().sqrt().clamp(min=1e-6)
    together_VV /= norms_V[:, None] * norms_V
    together_VV.fill_diagonal_(0.0)
    least_V1 = together_VV.topk(min(NEAREST, rows), dim=1).values[:, -1:]
    return torch.where(together_VV >= least_V1, together_VV, 0.0)


def _ranking(
    task: Recommend, scores_of: Callable[[Tensor], Tensor], *, nats: bool = True
) -> Callable[[Split], np.ndarray | Predictions]:
    """What gives lists for a split by scores of histories (U, H) -> (U, V); `nats`: these are log probabilities."""

    def outputs(split: Split) -> np.ndarray | Predictions:
        targets, found = split.table.targets, []
        for first in range(0, len(targets.weights), _AT_A_TIME):
            part = slice(first, first + _AT_A_TIME)
            own = targets.map(lambda values, part=part: torch.from_numpy(np.array(values[part])))
            seen_UH = (
                own.extras[SEEN].long() if SEEN in own.extras else torch.zeros(len(own.weights), 1).long()
            )
            found.append(task.keep(scores_of(seen_UH), own).numpy())
        kept = np.concatenate(found or [np.empty((0, 2))])
        if nats:
            return kept
        kept[:, 0] = np.nan
        return task.decode(kept)

    return outputs

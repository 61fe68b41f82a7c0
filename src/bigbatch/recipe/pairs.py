"""What sentence-transformers calls a loss and a dataset, in the words of `task: match`. Types and fields are looked at;
nothing is called, and the library is never imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigbatch.errors import UsageError

ROLES = ("query", "document", "negative")
LABELS = ("label", "labels", "score", "scores")
"""Columns that are no text there."""
_RANKING = {
    "MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
}  # fmt: skip
_SYMMETRIC = {
    (("query_to_doc",), "joint"): False,
    (("query_to_doc", "doc_to_query"), "per_direction"): True,
}
"""Who looks for whom, and whether each direction has a softmax of its own -> `symmetric`."""


def loss_options(loss: Any) -> dict[str, object]:
    """Options of `task: match` that a loss stands for; None: this task's own.

    Raises:
        UsageError: a loss that is not built.
    """
    if loss is None:
        return {}
    name = type(loss).__name__
    if name not in _RANKING or not type(loss).__module__.startswith("sentence_transformers."):
        raise UsageError(
            f"loss: {getattr(loss, '__qualname__', name)}: task match holds every query against every document of the "
            f"batch; expected {' or '.join(sorted(_RANKING))} made with the model"
        )
    directions, partition = tuple(loss.directions), loss.partition_mode
    if (directions, partition) not in _SYMMETRIC or loss.hardness_mode is not None:
        raise UsageError(
            f"loss: {name}: directions={directions}, partition_mode={partition!r}, "
            f"hardness_mode={loss.hardness_mode!r} is not built; leave them as they are, or use the symmetric loss"
        )
    compared = getattr(getattr(loss, "similarity_fct", None), "__name__", "cos_sim")
    if compared not in ("cos_sim", "dot_score"):
        raise UsageError(
            f"loss: {name}: similarity_fct={compared} is not built; expected cos_sim or dot_score"
        )
    return {
        "temperature": 1 / float(getattr(loss, "scale", 20.0)),
        "similarity": "cosine" if compared == "cos_sim" else "dot",
        "symmetric": _SYMMETRIC[directions, partition],
    }


def columns_by_place(names: Sequence[str]) -> dict[str, str]:
    """Role -> column, as they stand there: what is looked for, what belongs to it, what does not.

    Raises:
        UsageError: fewer than two texts, or more than three.
    """
    texts = [name for name in names if name.lower() not in LABELS]
    if not 2 <= len(texts) <= len(ROLES):
        raise UsageError(
            f"train_dataset: found the columns {', '.join(names)}; expected two or three of text: what is looked for, "
            "what belongs to it, and perhaps what does not"
        )
    return dict(zip(ROLES, texts, strict=False))


def refuse_other_pairs(labels: Mapping[str, Iterable[object]]) -> None:
    """Pairs that a label says do not belong together would be learnt as if they did.

    Raises:
        UsageError: a label that is not 1.
    """
    for name, values in labels.items():
        for row, value in enumerate(values, start=1):
            if value != 1:
                raise UsageError(
                    f"train_dataset: row {row}: {name} is {value!r}, and task match learns from pairs that belong "
                    "together: leave such rows out, or give what does not belong as a third column"
                )

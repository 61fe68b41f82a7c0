"""Which of a run's figures says most: the one that chooses the weights, then those that its task is judged by.

Accuracy comes late: with one frequent class, or with tags of which most mean nothing, it says little.
"""

from __future__ import annotations

from collections.abc import Iterable

_USUAL = (
    "f1",
    "f1_macro",
    "f1_micro",
    "chrf",
    "bleu",
    "rouge_l",
    "rouge_lsum",
    "perplexity",
    "bits_per_byte",
    "recall@1",
    "recall@10",
    "mrr@10",
    "ndcg@10",
    "r2",
    "mae",
    "accuracy",
    "balanced_accuracy",
    "matthews_corrcoef",
)


def in_order(names: Iterable[str], chosen: str | None = None, *, usual_only: bool = False) -> list[str]:
    """Figures, the most telling first.

    Args:
        names: those that there are.
        chosen: the one that chooses the weights, if it is known.
        usual_only: whether those that few people know are left out.

    Example:
        >>> in_order(["loss", "accuracy", "precision", "f1"], chosen="loss")
        ['loss', 'f1', 'accuracy', 'precision']
    """
    there = list(dict.fromkeys(names))
    usual = [name for name in _USUAL if name in there]
    first = [chosen] if chosen in there else []
    return list(dict.fromkeys([*first, *usual, *(() if usual_only else there)]))


def telling(names: Iterable[str], chosen: str | None = None) -> str | None:
    """The one figure to compare runs by: what chooses the weights, unless that is the loss and there is another."""
    there = [name for name in names if name != "loss"]
    order = in_order(there, chosen)
    return order[0] if order else ("loss" if "loss" in list(names) else None)

"""Which of a run's figures says most: the one that chooses the weights, then those that its task is judged by.

Accuracy comes late: with one frequent class, or with tags of which most mean nothing, it says little.
"""

from __future__ import annotations

from collections.abc import Iterable

_USUAL = (
    "f1",
    "f1_macro",
    "f1_micro",
    "perplexity",
    "bits_per_byte",
    "recall@1",
    "recall@10",
    "mrr@10",
    "ndcg@10",
    "r2",
    "mae",
    "balanced_accuracy",
    "matthews_corrcoef",
    "accuracy",
)


def short(key: str | None, splits: Iterable[str] = ()) -> str | None:
    """The figure's own name of a key that may name a split: `hard.f1_macro` -> `f1_macro`."""
    if key is None:
        return None
    names = {name for split in splits for name in (split, split.removeprefix("validation."), "main")}
    for name in sorted(names, key=len, reverse=True):
        if key.startswith(f"{name}."):
            return key.removeprefix(f"{name}.")
    return key


def in_order(names: Iterable[str], chosen: str | None = None) -> list[str]:
    """Figures, the most telling first.

    Args:
        names: those that there are.
        chosen: the one that chooses the weights, if it is known.

    Example:
        >>> in_order(["loss", "accuracy", "precision", "f1"], chosen="loss")
        ['loss', 'f1', 'accuracy', 'precision']
    """
    there = list(dict.fromkeys(names))
    usual = [name for name in _USUAL if name in there]
    first = [chosen] if chosen in there else []
    return list(dict.fromkeys([*first, *usual, *there]))


def telling(names: Iterable[str], chosen: str | None = None) -> str | None:
    """The one figure to compare runs by: what chooses the weights, unless that is the loss and there is another."""
    there = [name for name in names if name != "loss"]
    order = in_order(there, chosen)
    return order[0] if order else ("loss" if "loss" in list(names) else None)

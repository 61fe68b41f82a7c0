"""What each output of a run's head stands for stays, as long as the run goes on.

A checkpoint has the head's rows by their place alone. With the names in another order, or with other names, every row
would speak for another class: nothing in the weights would say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bigbatch.data.labels import class_name
from bigbatch.documents import readable
from bigbatch.errors import UsageError
from bigbatch.store.directory import RunDirectory
from bigbatch.stored import Damaged, read_object


def kept_classes(path: Path) -> tuple[str, ...] | None:
    """The classes that a run was started with, in the order of its outputs; None where that is not known."""
    named = (readable(path / "identity.json") or {}).get("classes")
    return _exported_classes(path) if named is None else tuple(named)


def _exported_classes(path: Path) -> tuple[str, ...] | None:
    """Of a run of an earlier version, which has them in what it exported alone."""
    try:
        names = read_object(RunDirectory(path).model / "config.json").get("id2label")
    except (OSError, Damaged):
        return None
    if not isinstance(names, dict):
        return None
    found = tuple(str(names.get(str(place))) for place in range(len(names)))
    numbered = tuple(
        f"LABEL_{place}" for place in range(len(names))
    )  # what transformers calls outputs without names
    return None if found == numbered else found


def check_same_classes(path: Path, now: Sequence[str]) -> None:
    """Refuse to go on in a run whose outputs would stand for other classes than before.

    Args:
        path: the run directory.
        now: the classes as recipe and data have them now, in order; empty: there are none.

    Raises:
        UsageError: with both lists, and how to take the weights along.
    """
    before = kept_classes(path)
    if before is None or list(map(class_name, before)) == list(map(class_name, now)):
        return
    same = sorted(before) == sorted(now)
    raise UsageError(
        f"{path} was trained on the classes {_shown(before)}; now they are {_shown(now)}"
        f"{': the same in another order' if same else ''}. Its head's rows keep their places, so they would speak for "
        f"other classes: set task.labels to [{', '.join(before)}] and keep to data of these, or start a new run from "
        f"its weights with model: {RunDirectory(path).model}, which keeps the head of the same names and makes a new "
        "one for others"
    )


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20])) or "(none)"
    return shown + (f", … ({len(names)} in all)" if len(names) > 20 else "")

"""Images that a model has drawn, on the page: a row a class."""

from __future__ import annotations

from collections.abc import Mapping

from bigbatch.report.quality import picture_in
from bigbatch.report.text import clean

_MOST = 40


def drawn_view(evaluation: Mapping[str, object]) -> dict[str, object]:
    """The picture of the first split that has one, and the classes of its rows."""
    for facts in evaluation.values():
        found = facts.get("drawn") if isinstance(facts, Mapping) else None
        if isinstance(found, Mapping) and (image := picture_in(found.get("image"))):
            labels = found.get("labels")
            names = [clean(label) for label in labels[:_MOST]] if isinstance(labels, list) else []
            return {"drawn": image, "drawn_labels": names, "drawn_by": clean(found.get("by") or "")}
    return {"drawn": "", "drawn_labels": [], "drawn_by": ""}

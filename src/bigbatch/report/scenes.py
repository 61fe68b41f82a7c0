"""Images with boxes on the page: what is there, and what the model finds."""

from __future__ import annotations

from collections.abc import Mapping

from bigbatch.report.quality import picture_in
from bigbatch.report.text import clean, shorten

_MOST, _LETTERS = 16, 200
_PLACES = {"worst": "Most is wrong", "typical": "In the middle", "best": "Right"}


def scenes_view(evaluation: Mapping[str, object]) -> dict[str, object]:
    """The images of the last split that has some, as the template reads them: `scenes`, a group a place."""
    for split, facts in reversed([*evaluation.items()]):
        rows = facts.get("scenes") if isinstance(facts, Mapping) else None
        found = (
            [_row(row) for row in rows[:_MOST] if isinstance(row, Mapping)] if isinstance(rows, list) else []
        )
        groups = [
            (words, [row for row in found if row["place"] == place]) for place, words in _PLACES.items()
        ]
        if any(group for _, group in groups):
            return {
                "scenes": [(words, group) for words, group in groups if group],
                "scenes_split": clean(split),
            }
    return {"scenes": [], "scenes_split": ""}


def _row(row: Mapping[str, object]) -> dict[str, object]:
    counts = {name: row.get(name) for name in ("found", "missed", "besides")}
    return {
        "image": picture_in(row.get("image")),
        "place": row.get("place"),
        "where": shorten(clean(row.get("where") or ""), 120),
        "things": _listed(row.get("things")),
        "objects": _listed(row.get("objects")),
        **{name: count if type(count) is int else "?" for name, count in counts.items()},
    }


def _listed(value: object) -> str:
    names = [clean(each) for each in value if isinstance(each, str)] if isinstance(value, list) else []
    return shorten(", ".join(names), _LETTERS) or "nothing"

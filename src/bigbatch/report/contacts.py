"""Contact maps on the page: what touches above the diagonal, what is said to touch below it."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from bigbatch.report.svg import picture, px, tag
from bigbatch.report.text import clean

_MOST, _MOST_LETTERS, _MOST_PAIRS = 6, 1000, 20_000
_SIDE, _EDGE = 300.0, 22.0
_PLACES = {"worst": "Worst", "typical": "In the middle", "best": "Best"}


def contacts_view(evaluation: Mapping[str, object]) -> dict[str, object]:
    """The maps of the last split that has some, as the template reads them."""
    for split, facts in reversed([*evaluation.items()]):
        rows = facts.get("contacts") if isinstance(facts, Mapping) else None
        maps = (
            [_drawn(row) for row in rows[:_MOST] if isinstance(row, Mapping)]
            if isinstance(rows, list)
            else []
        )
        found = [one for one in maps if one is not None]
        if found:
            return {"contact_maps": found, "contacts_split": clean(split)}
    return {"contact_maps": [], "contacts_split": ""}


def _drawn(row: Mapping[str, object]) -> dict[str, object] | None:
    letters, precision = row.get("letters"), row.get("precision")
    if not isinstance(letters, int) or not 1 <= letters <= _MOST_LETTERS:
        return None
    true, predicted = (_pairs(row.get(name), letters) for name in ("true", "predicted"))
    right = [pair for pair in predicted if pair in set(true)]
    wrong = [pair for pair in predicted if pair not in set(true)]
    where, shown = clean(row.get("where") or ""), row.get("place")
    said = f"{precision:.2f}" if isinstance(precision, (int, float)) else ""
    title = f"{_PLACES.get(shown if isinstance(shown, str) else '', 'A chain')}: {where}"
    return {
        "title": title,
        "precision": said,
        "letters": letters,
        "figure": _figure(letters, true, right, wrong, title),
    }


def _pairs(value: object, letters: int) -> list[tuple[int, int]]:
    """Those that lie in the map."""
    found = []
    for pair in value[:_MOST_PAIRS] if isinstance(value, list) else []:
        if isinstance(pair, list) and len(pair) == 2 and all(type(each) is int for each in pair):
            first, second = pair
            if 0 <= first < second < letters:
                found.append((first, second))
    return found


def _figure(
    letters: int,
    true: list[tuple[int, int]],
    right: list[tuple[int, int]],
    wrong: list[tuple[int, int]],
    title: str,
) -> Markup:
    step = _SIDE / letters
    edge = max(step, 1.6)

    def marks(pairs: list[tuple[int, int]], tone: str) -> Markup:
        squares = "".join(
            f"M{px(_EDGE + column * step)} {px(row * step)}h{px(edge)}v{px(edge)}h-{px(edge)}z"
            for row, column in pairs
        )
        return tag("path", d=squares or "M0 0", class_=tone)

    labels = [
        tag(
            "text",
            number,
            x=px(_EDGE + (number - 0.5) * step),
            y=px(_SIDE + 15),
            text_anchor="middle",
            class_="tick",
        )
        for number in sorted({1, letters})
    ]
    return picture(
        _SIDE + _EDGE + 6,
        _SIDE + 22,
        title,
        f"Contacts of {letters} letters: {len(true)} above the diagonal, {len(right)} right and {len(wrong)} wrong "
        "predictions below it.",
        tag("rect", x=px(_EDGE), y=0, width=px(_SIDE), height=px(_SIDE), class_="frame"),
        tag("line", x1=px(_EDGE), y1=0, x2=px(_EDGE + _SIDE), y2=px(_SIDE), class_="rule"),
        marks(true, "fill tone-1"),
        marks([(second, first) for first, second in right], "fill tone-2"),
        marks([(second, first) for first, second in wrong], "fill tone-5"),
        *labels,
    )

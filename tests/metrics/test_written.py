"""Which of the texts that were written are shown."""

from __future__ import annotations

from collections import Counter

import pytest

from bigbatch.metrics.written import shown_texts


@pytest.mark.parametrize("count", [0, 1, 3, 7, 20, 21, 400])
def test_no_row_is_shown_twice_and_places_are_those_of_all(count):
    """Each text is right in as many of its 400 letters as its number says; 20 are shown."""
    wanted = [chr(97 + row % 26) * 400 for row in range(count)]
    texts = [text[:row] + "0" * (400 - row) for row, text in enumerate(wanted)]
    shown = shown_texts(texts, wanted, 20)
    rows = [each.row for each in shown]
    assert len(set(rows)) == len(rows) == min(count, 20)
    assert [each.score for each in shown] == sorted(each.score for each in shown)
    places = {
        place: [each.row for each in shown if each.place == place] for place in ("worst", "typical", "best")
    }
    if count == 400:
        assert Counter(each.place for each in shown) == {"worst": 10, "typical": 5, "best": 5}
        assert places["best"] == [395, 396, 397, 398, 399] and places["worst"] == [*range(10)]
        assert max(abs(row - 199.5) for row in places["typical"]) <= 3

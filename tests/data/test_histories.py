"""Events become histories: in order of time, earlier splits in front, places of rows kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bigbatch.data.histories import grouped, grouped_rows, item_names, last_events, with_histories
from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.errors import DataError
from bigbatch.tasks.recommend import Recommend


def table(rows: list[dict], tmp_path=None) -> DataTable:
    return read_table(rows, base=tmp_path, columns={}, roles=Recommend().roles)


def events(text: str, first: int = 0) -> DataTable:
    """`a5 b7 a2`: user and item, a second apart."""
    return table(
        [
            {"user": word[0], "item": word[1:], "time": str(first + place)}
            for place, word in enumerate(text.split())
        ]
    )


def shown(found: DataTable) -> list[tuple]:
    known = "known" in found.rows.column_names
    return [
        (row["user"], " ".join(row["item"]), *([row["known"]] if known else []))
        for row in found.rows.to_pylist()
    ]


def test_splits_are_told_what_came_before():
    train, test = events("a5 b7 a2 c1 b3"), events("b4 a9", 20)
    found, validation, last, said = with_histories(train, {"main": events("a8 d6", 10)}, test)
    assert shown(found) == [("a", "5 2"), ("b", "7 3"), ("c", "1")]
    assert shown(validation["main"]) == [("a", "5 2 8", 2), ("d", "6", 0)]
    assert shown(last) == [("b", "7 3 4", 2), ("a", "5 2 8 9", 3)]
    assert [last.row_numbers[row] for row in (0, 1)] == [1, 2] and not said
    assert item_names(found) == ["1", "2", "3", "5", "7"]
    assert item_names(grouped(table([{"user": 1, "item": each} for each in ("b", "10", "9")]), None)) == [
        "10",
        "9",
        "b",
    ]


def test_time_decides_and_not_the_order_of_rows():
    rows = [{"user": 1, "item": i, "time": t} for i, t in ((1, 9), (2, 10), (3, 8.5), (4, 10))]
    assert shown(grouped(table(rows), None)) == [("1", "3 1 2 4")]
    dates = [{"user": 1, "item": i, "time": t} for i, t in ((1, "2020-02-01"), (2, "2019-12-31"))]
    assert shown(grouped(table(dates), None)) == [("1", "2 1")]
    assert shown(grouped(table([{"user": 1, "item": i} for i in (3, 1, 2)]), None)) == [("1", "3 1 2")]
    lists = table([{"user": "a", "item": ["x", "y z"]}, {"user": "b", "item": ["y z"]}])
    assert [row["item"] for row in grouped(lists, None).rows.to_pylist()] == [["x", "y z"], ["y z"]]


def test_a_history_that_goes_on_after_its_split_is_said():
    _, _, _, said = with_histories(events("a1 a2 b3 b4", 10), {"main": events("a5 b6")}, None)
    assert (
        len(said) == 1
        and "validation" not in said[0]
        and "2 users have events in an earlier split" in said[0]
    )
    assert not with_histories(events("a1 a2"), {"main": events("a5", 30)}, None)[3]


def test_the_last_share_of_each_user_is_held_out():
    rows = [{"user": u, "item": i, "time": -i if u == "a" else i} for i in range(20) for u in "ab"]
    source = table([*rows, {"user": "c", "item": 1, "time": 0}])
    train, held = last_events(source, 0.1, 0)
    found = source.rows.take(pa.array(held)).to_pylist()
    assert sorted((row["user"], *row["item"]) for row in found) == [
        ("a", "0"),
        ("a", "1"),
        ("b", "18"),
        ("b", "19"),
    ]
    assert sorted([*train, *held]) == list(range(41)) and (np.diff(train) > 0).all()
    with pytest.raises(DataError, match="leaves none to validate on"):
        last_events(source.take(np.arange(4)), 0.1, 0)
    users = table([{"user": n, "item": ["1", "2"]} for n in range(20)])
    assert len(last_events(users, 0.1, 0)[1]) == 2


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"user": None, "item": 1, "time": 1}, r"row 2: user: no user"),
        ({"user": 1, "item": "", "time": 1}, r"row 2: item: no item"),
        ({"user": 1, "item": 1, "time": None}, r"row 2: time: no time"),
        ({"user": 1, "item": ["a", None], "time": 1}, r"row 2: item: an item without a name"),
    ],
)
def test_an_event_that_lacks_something_is_named(row, what):
    rows = [{"user": 1, "item": ["b"] if isinstance(row["item"], list) else 2, "time": 2}, row]
    with pytest.raises(DataError, match=what):
        grouped(table(rows), None)


def test_rows_to_predict_are_gathered():
    rows = [
        ("row 1", {"user": "a", "item": ["1"], "time": "5"}),
        ("row 2", {"user": "b", "item": ["2", "3"], "time": "1"}),
        ("row 3", {"user": "a", "item": ["4"], "time": "40"}),
        ("row 4", {"item": ["7"]}),
        ("row 5", {"user": "a", "item": ["6"], "time": "3"}),
    ]
    found = grouped_rows(rows)
    assert [place for place, _ in found] == ["row 1", "row 2", "row 4"]
    assert [row["item"] for _, row in found] == [["6", "1", "4"], ["2", "3"], ["7"]]

"""Rows of candidates become queries, and queries groups of samples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigbatch.data.lists import gathered
from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.errors import DataError
from bigbatch.tasks.rank import Rank


def table(rows: list[dict], tmp_path) -> DataTable:
    return read_table(rows, base=tmp_path, columns={}, roles=Rank().roles)


def row(query: object, candidate: object, label: object, **more: object) -> dict:
    return {"query": query, "candidate": candidate, "label": label, **more}


def test_rows_of_a_query_or_of_a_group_belong_together(tmp_path):
    rows = [row("q", "a", 1), row("p", "b", 0), row("q", "c", 0.5), row("p", "d", 2)]
    found = gathered(table(rows, tmp_path))
    assert found.rows.select(["query", "candidate", "label"]).to_pylist() == [
        {"query": "q", "candidate": ["a", "c"], "label": [1, 0.5]},
        {"query": "p", "candidate": ["b", "d"], "label": [0, 2]},
    ]
    assert [int(found.row_numbers[at]) for at in (0, 1)] == [1, 2]
    grouped = [{**each, "group": group} for each, group in zip(rows, "xyyx", strict=True)]
    assert [
        len(each) for each in gathered(table(grouped, tmp_path)).rows.column("candidate").to_pylist()
    ] == [2, 2]
    assert gathered(table(grouped, tmp_path)).rows.column("candidate").to_pylist() == [["a", "d"], ["b", "c"]]


def test_a_row_may_have_all_candidates(tmp_path):
    rows = [row("q", ["a", "b", "c"], 2), row("p", ["d", "e"], [0, 3])]
    found = gathered(table(rows, tmp_path)).rows.to_pylist()
    assert [each["label"] for each in found] == [[0, 0, 1], [0, 3]]


def test_sources_are_counted_in_queries(tmp_path):
    rows = [row("q", "a", 1), row("q", "b", 0), row("p", "c", 1), row("r", "d", 1), row("q", "e", 0)]
    found = gathered(replace(table(rows, tmp_path), sources=(0, 3)))
    assert len(found) == 3 and found.sources == (0, 2), (
        "a query belongs to the source in which it comes first"
    )


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (
            row("q", ["a", "b"], 2),
            "row 2: label: found 2; expected the place of the right one of 2 candidates",
        ),
        (row("q", ["a", "b", "c"], [1, 0]), "row 2: label: found 2 numbers for 3 candidates"),
        (row("q", "a", -1), "row 2: label: found -1; expected how relevant"),
        (row("q", "a", None), "row 2: label: no label"),
        (row("", "a", 1), "row 2: query: no query"),
        (row("q", None, 1), "row 2: candidate: no candidate"),
        (row("q", "a", "good"), "row 2: label: expected a number, found 'good'"),
    ],
)
def test_what_does_not_fit_is_named(wrong, what, tmp_path):
    first = {**wrong, **row("p", ["x"] if isinstance(wrong["candidate"], list) else "x", [1])}
    if not isinstance(wrong["label"], list):
        first["label"] = "1" if isinstance(wrong["label"], str) else 0
    with pytest.raises(DataError, match=what):
        gathered(table([first, wrong], tmp_path))

"""Malformed rows of token ids: each is named with its row, its column, what was found and what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from bigbatch.data.sources import read_table
from bigbatch.errors import DataError
from bigbatch.protocols import Role

KINDS = {"single": "label", "multi": "labels", "regression": "number", "tags": "tags"}
GOOD = {"single": 1, "multi": [1], "regression": 0.5, "tags": [0, -100, 1]}


def read(rows, kind="single", tmp_path=None):
    first = {"words": Role(meaning="", kind="words")} if kind == "tags" else {"text": Role(meaning="")}
    roles = {**first, "label": Role(meaning="", kind=KINDS[kind])}
    if tmp_path is not None:
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_table("a.jsonl", base=tmp_path, columns={}, roles=roles)
    return read_table(rows, base=Path(), columns={}, roles=roles)


@pytest.mark.parametrize(
    ("kind", "change", "key", "what"),
    [
        ("single", {"input_ids": [2, -6, 3]}, "input_ids", "found -6; expected integers from 0"),
        ("single", {"input_ids": None}, "input_ids", "found None; expected a list of integers"),
        ("single", {"input_ids": [2, None]}, "input_ids", "found None; expected integers"),
        ("single", {"input_ids": [[2, 6, 3]]}, "input_ids", r"found \[2, 6, 3\]; expected integers"),
        ("single", {"input_ids": "[2, 6, 3]"}, "input_ids", "expected a list of integers"),
        ("single", {"input_ids": [2, 6.5, 3]}, "input_ids", "found 6.5; expected integers"),
        ("tags", {"input_ids": [2, 6.5, 3]}, "input_ids", "found 6.5; expected integers"),
        ("single", {"input_ids": []}, "input_ids", "no token ids"),
        ("single", {"attention_mask": [1]}, "attention_mask", "found 1 entries for 3 input_ids"),
        ("single", {"attention_mask": [1, 1, 2]}, "attention_mask", "found 2; expected zeros and ones"),
        ("single", {"token_type_ids": [0, 0]}, "token_type_ids", "found 2 entries for 3 input_ids"),
        ("single", {"token_type_ids": [0, 0, -1]}, "token_type_ids", "found -1"),
        ("single", {"labels": [1]}, "labels", r"found a list, \[1\]; expected one class id"),
        ("single", {"labels": 1.5}, "labels", "found 1.5; expected a class id"),
        ("single", {"labels": -2}, "labels", "found -2; expected a class id"),
        ("tags", {"labels": 1}, "labels", "found 1; expected a list of class ids"),
        ("tags", {"labels": [0, None, 1]}, "labels", "found None; expected class ids"),
        ("tags", {"labels": [0, 1]}, "labels", "found 2 labels for 3 input_ids"),
        ("regression", {"labels": [1.0, 2.0]}, "labels", "expected a number, found"),
        ("multi", {"labels": [0, -1]}, "labels", "-1 is none of several labels"),
    ],
)
def test_a_malformed_row_is_named(kind, change, key, what, tmp_path):
    good = {"input_ids": [2, 6, 3], "labels": GOOD[kind]}
    good |= {name: [1, 1, 1] for name in ("attention_mask", "token_type_ids") if name in change}
    with pytest.raises(DataError, match=f"a.jsonl:2: {key}: .*{what}"):
        read([good, {**good, **change}, good], kind, tmp_path)
    with pytest.raises(DataError, match=f"a.jsonl:1: {key}: .*{what}"):
        read([{**good, **change}, {**good, **change}], kind, tmp_path)


def test_lists_of_class_ids_may_be_of_unequal_length():
    table = read([{"input_ids": [1], "labels": [0, 2]}, {"input_ids": [1], "labels": [1]}], "multi")
    assert table.rows.column("labels").to_pylist() == [["0", "2"], ["1"]]


def test_whole_floats_and_missing_masks_are_read():
    rows = [
        {"input_ids": [1.0, 2.0], "attention_mask": None, "labels": 1.0},
        {"input_ids": [3, 4], "attention_mask": [1, 0], "labels": -100},
    ]
    table = read(rows)
    assert table.rows.column("input_ids").to_pylist() == [[1, 2], [3, 4]]
    assert table.rows.column("attention_mask").to_pylist() == [None, [1, 0]]
    assert table.rows.column("labels").to_pylist() == [1, -100]


def test_columns_of_arrow_are_checked_as_they_are():
    good = pa.table({"input_ids": pa.array([[1, 2], [3]], pa.large_list(pa.int32())), "labels": [0, 1]})
    assert read(good).rows.column("input_ids").to_pylist() == [[1, 2], [3]]
    with pytest.raises(DataError, match="row 2: input_ids: found -3"):
        read(pa.table({"input_ids": [[1, 2], [-3]], "labels": [0, 1]}))

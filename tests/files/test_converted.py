"""The command `convert`: what was written is what was read, and what a kind of file cannot hold is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from bigbatch.errors import DataError, UsageError
from bigbatch.files.converted import convert
from bigbatch.files.kinds import read_file

ROWS = [
    {"text": 'one, "two"', "label": 1, "score": 0.5, "ids": [1, 2], "words": ["a", "b"]},
    {"text": "ä\n", "label": -3, "score": None, "ids": [3, 4], "words": ["c", "d"]},
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def rows_in(path):
    raw = read_file(path.name, path, "utf-8")
    columns = {
        name: column if isinstance(column, list) else column.to_pylist()
        for name, column in raw.load(raw.columns).items()
    }
    return [{name: values[row] for name, values in columns.items()} for row in range(raw.rows)]


@pytest.mark.parametrize("kind", ["tfrecord", "tfrecord.gz", "parquet", "jsonl"])
def test_and_back(source, tmp_path, kind):
    assert convert(source, tmp_path / f"x.{kind}") == 2
    assert convert(tmp_path / f"x.{kind}", tmp_path / "back.jsonl") == 2
    assert rows_in(tmp_path / "back.jsonl") == [dict(sorted(row.items())) for row in ROWS]
    with pytest.raises(UsageError, match="exists and is not overwritten"):
        convert(source, tmp_path / f"x.{kind}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["rows.jsonl", f"x.{kind}", "back.jsonl"]
    )


def test_bytes_and_floats(tmp_path):
    table = pa.table({"image": [b"\xff\xd8", b"\x89"], "score": [0.1, 0.25], "flag": [True, False]})
    parquet.write_table(table, tmp_path / "x.parquet")
    said: list[str] = []
    convert(tmp_path / "x.parquet", tmp_path / "x.tfrecord", say=said.append)
    assert said == [
        "score: TFRecord has floats of 32 bits, and not all of these are; the first at "
        + f"{tmp_path}/x.parquet:1"
    ]
    assert rows_in(tmp_path / "x.tfrecord")[1] == {"flag": 0, "image": b"\x89", "score": 0.25}
    for kind, what in (("jsonl", "JSON cannot hold it"), ("csv", "CSV holds no bytes")):
        with pytest.raises(DataError, match=f"x.parquet:1: {what}"):
            convert(tmp_path / "x.parquet", tmp_path / f"y.{kind}")
        assert not (tmp_path / f"y.{kind}").exists()


def test_what_is_refused(source, tmp_path):
    with pytest.raises(UsageError, match="cannot write such a file; expected .tfrecord"):
        convert(source, tmp_path / "x.xlsx")
    (tmp_path / "nested.jsonl").write_text('{"a": {"b": 1}}\n')
    with pytest.raises(DataError, match="nested.jsonl:1: column 'a': TFRecord holds texts.*not dict"):
        convert(tmp_path / "nested.jsonl", tmp_path / "x.tfrecord")
    with pytest.raises(DataError, match="has the columns .*; convert them one by one"):
        convert(tmp_path / "*.jsonl", tmp_path / "x.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nested.jsonl", "rows.jsonl"]


def test_a_file_system_without_hard_links(source, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refused)
    assert convert(source, tmp_path / "x.parquet") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "x.parquet"]
    with pytest.raises(UsageError, match="exists and is not overwritten"):
        convert(source, tmp_path / "x.parquet")

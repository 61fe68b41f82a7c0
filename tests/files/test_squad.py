"""Files and columns of questions: every form gives the same rows, and what is wrong is named by its place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bigbatch.data.sources import read_table
from bigbatch.errors import DataError
from bigbatch.files.kinds import read_file
from bigbatch.files.squad import answers_of
from bigbatch.tasks.span import Span
from tests.questions import question_rows, write_squad

ROWS = question_rows(5, without=3)
FLAT = [
    {**row, "answers": {key: [one[key] for one in row["answers"]] for key in ("text", "answer_start")}}
    for row in ROWS
]


def read(source: object, folder: Path = Path()) -> list[dict]:
    return read_table(source, base=folder, columns={}, roles=Span().roles).rows.to_pylist()


def test_every_form_gives_the_same_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = read(ROWS)
    assert [json.loads(row["answers"]) for row in expected] == [row["answers"] for row in ROWS]
    assert read(FLAT) == expected
    write_squad(tmp_path / "one-line.json", ROWS)
    write_squad(tmp_path / "indented.json", ROWS, indent=2)
    articles = json.loads((tmp_path / "one-line.json").read_text())["data"]
    (tmp_path / "articles.json").write_text(json.dumps(articles))
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(FLAT), tmp_path / "flat.parquet")
    names = ("one-line.json", "indented.json", "articles.json", "rows.jsonl", "flat.parquet")
    for name in names:
        assert read(name, tmp_path) == expected, name


def test_squad_2_and_cmrc(tmp_path):
    squad = {
        "id": "a",
        "question": "who?",
        "is_impossible": True,
        "answers": [],
        "plausible_answers": [{"text": "x"}],
    }
    cmrc = {"id": "T1_Q1", "question": "谁？", "answers": [{"text": "光荣", "answer_start": 3}] * 3}
    paragraphs = [
        {"context": "none", "qas": [squad]},
        {"id": "T1", "context": "它是由光荣开发", "qas": [cmrc]},
    ]
    document = {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    first, second = read("a.json", tmp_path)
    assert (first["answers"], second["id"], len(json.loads(second["answers"]))) == ("[]", "T1_Q1", 3)


@pytest.mark.parametrize(
    ("qas", "words"),
    [
        (
            {"question": "a", "answers": [{"text": "x", "answer_start": -1}]},
            "found -1; expected a number of characters",
        ),
        ({"question": "a", "answers": [{"text": "x"}]}, "answer_start: found None"),
        ({"question": "a", "answers": [{"text": "x", "answer_start": True}]}, "found True"),
        (
            {"question": "a", "answers": [{"text": "x", "answer_start": 10**40}]},
            "expected a number of characters",
        ),
        (
            {"question": "a", "answers": [{"text": " ", "answer_start": 0}]},
            "is empty; a question without an answer",
        ),
        ({"question": "a", "answers": [{"text": 3, "answer_start": 0}]}, "expected its text, found int"),
        ({"question": "a", "answers": [3]}, 'expected {"text", "answer_start"}, found int'),
        (
            {"question": "a", "answers": {"text": ["x"], "answer_start": []}},
            "found 1 texts, but 0 answer_start",
        ),
        ({"question": "a", "answers": 3}, "found int"),
        ({"question": 3}, "data[0].paragraphs[0].qas[0]: expected an object with a text under 'question'"),
        (
            {"question": "a", "is_impossible": True, "answers": [{}]},
            "is_impossible is true, but there are 1 answers",
        ),
        (3, "expected an object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, qas, words):
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "x", "qas": [qas]}]}]}))
    with pytest.raises(DataError) as caught:
        read("a.json", tmp_path)
    assert words in str(caught.value) and "a.json" in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        {"data": [{"paragraphs": 3}]},
        {"data": [{"paragraphs": [3]}]},
        {"data": [{"paragraphs": [{"qas": [{"question": "a"}]}]}]},
        {"data": [{"paragraphs": [{"context": "x", "qas": {}}]}]},
    ],
)
def test_a_damaged_file_says_where(tmp_path, document):
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"a.json: data\[0\]"):
        read_file("a.json", tmp_path / "a.json", "utf-8")


def test_answers_of_other_libraries():
    start = {"text": np.array(["b"], object), "answer_start": np.array([1], np.int32)}
    assert json.loads(answers_of(start) or "") == [{"text": "b", "answer_start": 1}]
    assert answers_of(float("nan")) is None and answers_of("[]") == "[]" and answers_of("") is None
    assert json.loads(answers_of({"text": "b", "answer_start": 2.0}) or "")[0]["answer_start"] == 2
    with pytest.raises(ValueError, match="as JSON"):
        answers_of("b, c")

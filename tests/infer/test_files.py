from __future__ import annotations

import csv
import io
import json
import os
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigbatch.data.labels import LabelSet
from bigbatch.errors import DataError, UsageError
from bigbatch.infer.files import predict_file
from bigbatch.infer.load import Loaded
from bigbatch.infer.writers import open_output, safe_cell
from bigbatch.tasks.classify import Classify

TEXTS = ["a b c d e f g", "h", "i j", "k l m n", "o p q"]


@pytest.fixture
def loaded(forward, tokenizer):
    return Loaded(
        module=forward.module,
        tokenizer=tokenizer,
        task=Classify().with_facts(labels=LabelSet(("neg", "=pos"))),
        forward=forward,
        max_length=16,
        columns={"text": "review", "label": "stars"},
    )


def write_csv(path: Path, texts=TEXTS, delimiter=",", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(["id", "review"])
        rows.writerows([f"r{index}", text] for index, text in enumerate(texts))
    return path


def read_jsonl(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_format_gives_the_same_predictions(loaded, tmp_path: Path):
    sources = [write_csv(tmp_path / "new.csv"), write_csv(tmp_path / "new.tsv", delimiter="\t")]
    sources += [write_csv(tmp_path / "semicolons.csv", delimiter=";")]
    sources += [write_csv(tmp_path / "bom.csv", encoding="utf-8-sig"), tmp_path / "new.jsonl"]
    lines = [json.dumps({"id": f"r{index}", "review": text}) for index, text in enumerate(TEXTS)]
    sources[-1].write_text("\n\n".join(lines) + "\n")
    results = []
    for index, source in enumerate(sources):
        assert predict_file(loaded, source, tmp_path / f"{index}.jsonl", window_rows=2) == 5
        results.append(read_jsonl(tmp_path / f"{index}.jsonl"))
    assert all(result == results[0] for result in results)
    assert [row["id"] for row in results[0]] == ["r0", "r1", "r2", "r3", "r4"]
    for stream in (
        io.StringIO("\n".join(TEXTS)),
        io.StringIO("\n".join(lines)),
        io.StringIO(sources[0].read_text()),
        io.StringIO(sources[2].read_text()),
    ):
        out = io.StringIO()
        predict_file(loaded, stream, out)
        found = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [row["probabilities"] for row in found] == [row["probabilities"] for row in results[0]]


def test_rows_need_not_have_the_same_fields_in_csv(tmp_path: Path):
    predictions = [
        {"embedding": [1.0, 2.0]},
        {"embedding": [], "id": "two\nlines"},
        {"query": [0.5], "document": [0.25], "score": -1.5},
        {"id": "=4", "embedding": [3.0]},
    ]
    with open_output(tmp_path / "out.csv") as write:
        for prediction in predictions:
            write(prediction)
    assert (tmp_path / "out.csv").read_text() == (
        "embedding,id,query,document,score\n1.0|2.0,,,,\n,two\\x0alines,,,\n,,0.5,0.25,-1.5\n3.0,'=4,,,\n"
    )


def test_ids_that_only_some_rows_have(loaded, tmp_path: Path):
    (tmp_path / "new.jsonl").write_text('{"review": "a"}\n{"review": "b", "id": 7}\n{"review": "c"}\n')
    predict_file(loaded, tmp_path / "new.jsonl", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["", "7", ""]


def test_csv_output_is_safe_and_complete(loaded, tmp_path: Path):
    texts = tmp_path / "new.csv"
    texts.write_text("id,review\n=cmd|' /C calc'!A0,a b\n-5,c\n\x1b[31mred,d\n")
    predict_file(loaded, texts, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "label", "probability", "probability_neg", "probability_=pos"]
    assert [row["id"] for row in rows] == ["'=cmd|' /C calc'!A0", "-5", "\\x1b[31mred"]
    assert {row["label"] for row in rows} <= {"neg", "'=pos"} and {row["label"] for row in rows} & {"'=pos"}
    assert all(float(row["probability"]) >= 0.5 for row in rows)


@pytest.mark.parametrize(
    "cell, safe",
    [
        ("=1+1", "'=1+1"), ("+a", "'+a"), ("@x", "'@x"), ("-a", "'-a"), (" =1", "' =1"), ("\t=1", "\\x09=1"),
        ("-5", "-5"), ("+1.5e3", "+1.5e3"), ("plain", "plain"), ("a\nb\x7f", "a\\x0ab\\x7f"), ("\u2028", "\\u2028"),
        (-5, -5), (None, None),
    ],
)  # fmt: skip
def test_cells(cell, safe):
    assert safe_cell(cell) == safe


def test_json_lines_hold_no_control_characters(tmp_path: Path):
    with open_output(tmp_path / "out.jsonl") as write:
        write({"id": "\x1b[31m\x9b\u2028\ud800 gut ü"})
    text = (tmp_path / "out.jsonl").read_text("utf-8")
    assert text.isprintable() is False and text.rstrip("\n").isprintable() and "ü" in text
    assert json.loads(text)["id"] == "\x1b[31m\x9b\u2028\ud800 gut ü"


def test_nothing_is_overwritten_and_nothing_is_left_behind(loaded, tmp_path: Path):
    source = write_csv(tmp_path / "new.csv")
    with pytest.raises(UsageError, match="is the input"):
        predict_file(loaded, source, source)
    os.link(source, tmp_path / "same.csv")
    with pytest.raises(UsageError, match="is the input"):
        predict_file(loaded, source, tmp_path / "same.csv")
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(UsageError, match="exists and is not overwritten"):
        predict_file(loaded, source, tmp_path / "out.jsonl")
    (tmp_path / "bad.csv").write_text("id,review\n1,a\n2,b\n3,c,d\n")
    with pytest.raises(DataError, match=r"bad.csv:4: 3 fields"):
        predict_file(loaded, tmp_path / "bad.csv", tmp_path / "new.jsonl", window_rows=2)
    with pytest.raises(UsageError, match=r"expected .jsonl or .csv"):
        predict_file(loaded, source, tmp_path / "out.xlsx")
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "new.csv", "out.jsonl", "same.csv"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(UsageError, match="exists"), open_output(out) as write:
        write({"label": "a"})
        out.write_text("somebody else's")
    assert out.read_text() == "somebody else's" and len(list(tmp_path.iterdir())) == 1


def test_an_empty_input_gives_an_empty_output(loaded, tmp_path: Path):
    source = write_csv(tmp_path / "new.csv", [])
    assert predict_file(loaded, source, tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("a.csv", b"id,review\n1,a,b\n", "a.csv:2: 3 fields, but the header has 2"),
        ("a.csv", b'id,review\n1,"a" b\n', "a.csv:2: "),
        ("a.csv", b"id,review,id\n1,a,b\n", "a.csv:1: id: this column is in the header twice"),
        ("a.csv", b"id,stars\n1,a\n", "no column 'review'"),
        ("a.csv", b"id,review\n1,caf\xe9\n", "a.csv:2: review: byte 0xE9 is not UTF-8"),
        ("a.jsonl", b'{"review": "a"}\n{"review": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"review": "a"}\n["b"]\n', "a.jsonl:2: expected an object .* found list"),
        ("a.jsonl", b'{"review": "a"}\n{"other": "b"}\n', "a.jsonl:2: text: there is no text"),
    ],
)
def test_malformed_rows_are_named(loaded, tmp_path: Path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what):
        predict_file(loaded, tmp_path / name, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_files_that_cannot_be_read(loaded, tmp_path: Path):
    with pytest.raises(DataError, match="none.csv: no such file"):
        predict_file(loaded, tmp_path / "none.csv", tmp_path / "out.csv")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(DataError, match=r"unknown kind of file '\.xlsx'"):
        predict_file(loaded, tmp_path / "a.xlsx", tmp_path / "out.csv")
    source = tmp_path / "latin.csv"
    source.write_bytes(b"review\ncaf\xe9\n")
    assert predict_file(loaded, source, tmp_path / "out.csv", encoding="latin-1") == 1


def test_json_rows_need_not_have_the_same_keys(loaded, tmp_path: Path):
    rows = [{"review": "a"}, {"id": "r1", "review": "b", "pair": "c d"}, {"review": "b"}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert predict_file(loaded, tmp_path / "new.jsonl", tmp_path / "out.jsonl", window_rows=1) == 3
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [row.get("id") for row in found] == [None, "r1", None]
    assert found[1]["probabilities"] != found[2]["probabilities"]


def test_a_column_that_the_recipe_names_has_to_be_there(tmp_path):
    """Also that of a role which a task may do without; a role that is absent when predicting may be."""
    from bigbatch.infer.unlabelled import rows_of_file
    from bigbatch.tasks.match import Match

    (tmp_path / "new.csv").write_text("a\nhello\n")

    def rows(task, columns):
        how = {"columns": columns, "encoding": "utf-8", "quoting": "minimal"}
        return [row for _, row in rows_of_file(tmp_path / "new.csv", roles=task.roles, **how)]

    with pytest.raises(DataError, match="no column 'b'"):
        rows(Classify(), {"text": "a", "pair": "b"})
    assert rows(Match(), {"query": "a", "document": "b"}) == [{"query": "hello"}]


def test_columns_that_are_kept_stand_beside_the_prediction(loaded, tmp_path: Path):
    source = tmp_path / "new.csv"
    source.write_text('id,review,label,day\n1,a b,neg,2024-05-01\n2,"=c, d",,\n')
    keep = ("review,label", "day")
    assert predict_file(loaded, source, tmp_path / "out.jsonl", keep=keep, window_rows=1) == 2
    first, second = read_jsonl(tmp_path / "out.jsonl")
    plain = tmp_path / "plain.jsonl"
    predict_file(loaded, source, plain)
    bare = read_jsonl(plain)
    assert list(first) == ["id", "review", "input.label", "day", *list(bare[0])[1:]]
    assert (first["review"], first["input.label"], first["day"]) == ("a b", "neg", "2024-05-01")
    assert second["review"] == "=c, d" and second["input.label"] in ("", None)
    for row, wanted in zip((first, second), bare, strict=True):
        assert {name: row[name] for name in wanted} == wanted
    predict_file(loaded, source, tmp_path / "out.csv", keep=keep)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["review"] for row in rows] == ["a b", "'=c, d"]  # no formula for a spreadsheet


def test_what_is_kept_is_whatever_the_source_has(loaded, tmp_path: Path):
    rows = [
        {"review": "a", "n": 1.5, "more": {"x": [1, None]}, "flag": True},
        {"review": "b", "n": None, "more": None, "flag": False},
    ]
    source = tmp_path / "new.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    predict_file(loaded, source, tmp_path / "out.jsonl", keep=("n", "more", "flag"))
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [{name: row[name] for name in ("n", "more", "flag")} for row in found] == [
        {name: row[name] for name in ("n", "more", "flag")} for row in rows
    ]
    table = pa.table({"review": ["a", "b"], "at": [datetime(2024, 5, 1), None], "x": [float("nan"), 2.0]})
    pq.write_table(table, tmp_path / "new.parquet")
    predict_file(loaded, tmp_path / "new.parquet", tmp_path / "dates.jsonl", keep=("at", "x"))
    dated = read_jsonl(tmp_path / "dates.jsonl")
    assert [(row["at"][:10] if row["at"] else None, row["x"]) for row in dated] == [
        ("2024-05-01", None),
        (None, 2.0),
    ]
    out = io.StringIO()
    predict_file(loaded, io.StringIO("a b\nc\n"), out, keep=("text",))
    assert [json.loads(line)["text"] for line in out.getvalue().splitlines()] == ["a b", "c"]


def test_a_column_to_keep_that_is_not_there_is_told_before_anything_is_written(loaded, tmp_path: Path):
    source = write_csv(tmp_path / "new.csv")
    with pytest.raises(DataError, match=r"--keep: no column 'reveiw'; did you mean review\?"):
        predict_file(loaded, source, tmp_path / "out.jsonl", keep=("reveiw",))
    assert not (tmp_path / "out.jsonl").exists()

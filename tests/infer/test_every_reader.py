"""What trains is predicted: each file and object through one reader, a row out for each row in, in order."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from bigbatch.data.labels import LabelSet
from bigbatch.data.sources import read_table
from bigbatch.errors import DataError, UsageError
from bigbatch.infer.files import predict_file
from bigbatch.infer.load import Loaded
from bigbatch.infer.predict import predict_rows
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.match import Match
from bigbatch.tasks.tag import Tag

TEXTS = ["a b c", "d", "e f"]
TASK = Classify().with_facts(labels=LabelSet(("neg", "pos")))


@pytest.fixture
def predict(forward, tokenizer) -> Callable[..., list[dict[str, Any]]]:
    """Predictions of whatever `Run.predict` is given."""

    def predicted(rows: Any, task: Any = TASK, **more: Any) -> list[dict[str, Any]]:
        return list(predict_rows(forward, task, tokenizer, rows, **more))

    return predicted


@pytest.fixture
def alone(predict) -> list[dict[str, Any]]:
    """What each text gives when it is the only one."""
    return [predict([text])[0] for text in TEXTS]


def the_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    shares = [[list(row["probabilities"].values()) for row in rows] for rows in (found, wanted)]
    return [row["label"] for row in found] == [row["label"] for row in wanted] and np.allclose(
        *shares, atol=1e-6
    )


# ---------------------------------------------------------------- files


def _lines(rows: list[dict[str, Any]], between: str = "\n") -> bytes:
    return between.join(json.dumps(row) for row in rows).encode()


ROWS = [{"text": text, "label": "neg"} for text in TEXTS]
TABLE = pa.table({"text": TEXTS, "label": ["neg", "pos", "neg"]})
LONG = "a b c" + " " * 131_100


def _parquet(**options: Any) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(TABLE, stream, **options)
    return stream.getvalue()


def _feather() -> bytes:
    stream = io.BytesIO()
    feather.write_feather(TABLE, stream)
    return stream.getvalue()


FILES: dict[str, tuple[str, bytes]] = {
    "blanks in the header": ("a.csv", b"text , label\na b c,neg\nd,pos\ne f,neg\n"),
    "byte order mark": ("a.csv", b"\xef\xbb\xbftext,label\na b c,neg\nd,pos\ne f,neg\n"),
    "carriage returns and line feeds": ("a.csv", b"text,label\r\na b c,neg\r\nd,pos\r\ne f,neg\r\n"),
    "carriage returns": ("a.csv", b"text,label\ra b c,neg\rd,pos\re f,neg\r"),
    "empty lines": ("a.csv", b"\ntext,label\n\na b c,neg\n\nd,pos\ne f,neg\n\n"),
    "no end of the last line": ("a.csv", b"text,label\na b c,neg\nd,pos\ne f,neg"),
    "unnamed columns": ("a.csv", b",text,label,\n0,a b c,neg,\n1,d,pos,\n2,e f,neg,\n"),
    "semicolons": ("a.csv", b"text;label\na b c;neg\nd;pos\ne f;neg\n"),
    "tabs": ("a.tsv", b"text\tlabel\na b c\tneg\nd\tpos\ne f\tneg\n"),
    "a long cell": ("a.csv", f"text,label\n{LONG},neg\nd,pos\ne f,neg\n".encode()),
    "quotes": ("a.csv", b'"text","label"\n"a b\nc",neg\n"d",pos\ne f,neg\n'),
    "zipped CSV": ("a.csv.gz", gzip.compress(b"text,label\na b c,neg\nd,pos\ne f,neg\n")),
    "capitals in the name": ("A.CSV", b"text,label\na b c,neg\nd,pos\ne f,neg\n"),
    "JSON Lines": ("a.jsonl", _lines(ROWS)),
    "JSON Lines with empty lines": ("a.jsonl", _lines(ROWS, "\n\n") + b"\n"),
    "JSON Lines with carriage returns": ("a.jsonl", _lines(ROWS, "\r")),
    "JSON Lines with a mark": ("a.jsonl", b"\xef\xbb\xbf" + _lines(ROWS)),
    "zipped JSON Lines": ("a.jsonl.gz", gzip.compress(_lines(ROWS))),
    "a JSON array": ("a.json", json.dumps(ROWS).encode()),
    "an indented JSON array": ("a.json", json.dumps(ROWS, indent=2).encode()),
    "indented JSON objects": ("a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode()),
    "Parquet": ("a.parquet", _parquet()),
    "Feather": ("a.feather", _feather()),
}


@pytest.mark.parametrize("name", FILES)
def test_what_trains_is_predicted(name, forward, tokenizer, alone, tmp_path: Path):
    file, content = FILES[name]
    (tmp_path / file).write_bytes(content)
    table = read_table(file, base=tmp_path, columns={}, roles=TASK.roles)
    assert [text.split() for text in table.rows.column("text").to_pylist()] == [
        text.split() for text in TEXTS
    ]
    loaded = Loaded(module=forward.module, tokenizer=tokenizer, task=TASK, forward=forward, max_length=16)
    assert predict_file(loaded, tmp_path / file, tmp_path / "out.jsonl") == 3
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert the_same(found, alone)


@pytest.mark.parametrize(
    "name", [name for name in FILES if name.split()[0] not in ("zipped", "Parquet", "Feather")]
)
def test_standard_input_is_read_as_files_are(name, forward, tokenizer, alone):
    file, content = FILES[name]
    loaded = Loaded(module=forward.module, tokenizer=tokenizer, task=TASK, forward=forward, max_length=16)
    out = io.StringIO()
    assert predict_file(loaded, io.TextIOWrapper(io.BytesIO(content), newline=""), out) == 3
    assert the_same([json.loads(line) for line in out.getvalue().splitlines()], alone)


@pytest.mark.parametrize("content", ["a b c\n\nd\n", "a b c\r\n\r\nd", "a b c\r\rd\r"])
def test_every_line_of_text_is_a_row(content, forward, tokenizer, predict, tmp_path: Path):
    (tmp_path / "a.txt").write_text(content, newline="")
    loaded = Loaded(module=forward.module, tokenizer=tokenizer, task=TASK, forward=forward, max_length=16)
    for source in (tmp_path / "a.txt", io.StringIO(content)):
        out = io.StringIO()
        assert predict_file(loaded, source, out) == 3
        found = [json.loads(line) for line in out.getvalue().splitlines()]
        assert the_same(found, predict(["a b c", "", "d"]))


@pytest.mark.parametrize("start", ["[sic] a b c", "tweet", "review, great", "{"])
def test_texts_on_standard_input_are_not_taken_for_tables(start, forward, tokenizer):
    loaded = Loaded(module=forward.module, tokenizer=tokenizer, task=TASK, forward=forward, max_length=16)
    if start == "{":
        with pytest.raises(DataError, match="not JSON"):
            predict_file(loaded, io.StringIO("{\nb"), io.StringIO())
    else:
        assert predict_file(loaded, io.StringIO(f"{start}\nb"), io.StringIO()) == 2


def test_quotes_that_are_characters(forward, tokenizer, tmp_path: Path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"a b\tneg\nc" d\tpos\n"e"\tneg\n')
    roles = TASK.roles
    with pytest.raises(DataError, match="data.quoting: none"):
        read_table("a.tsv", base=tmp_path, columns={}, roles=roles)
    table = read_table("a.tsv", base=tmp_path, columns={}, roles=roles, quoting="none")
    assert table.rows.column("text").to_pylist() == ['"a b', 'c" d', '"e"']
    loaded = Loaded(module=forward.module, tokenizer=tokenizer, task=TASK, forward=forward, max_length=16)
    with pytest.raises(DataError, match="--quoting none"):
        predict_file(loaded, tmp_path / "a.tsv", io.StringIO())
    assert predict_file(loaded, tmp_path / "a.tsv", io.StringIO(), quoting="none") == 3


# ---------------------------------------------------------------- objects


def _frame() -> Any:
    import pandas

    return pandas.DataFrame({"id": [7, 8, 9], "text": TEXTS, "label": ["neg", "pos", "neg"]})


def _datasets() -> Any:
    import datasets

    return datasets.Dataset.from_dict({"text": TEXTS})


class MapStyle:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return {"text": TEXTS[index], "label": 1}


OBJECTS: dict[str, Callable[[], Any]] = {
    "list of texts": lambda: TEXTS,
    "tuple of texts": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "values of a dictionary": lambda: dict(enumerate(TEXTS)).values(),
    "list of rows": lambda: ROWS,
    "generator of rows": lambda: iter(ROWS),
    "rows as tuples": lambda: [(text,) for text in TEXTS],
    "rows of different kinds": lambda: [TEXTS[0], {"sentence": TEXTS[1]}, (TEXTS[2], None)],
    "dictionary of columns": lambda: {"text": TEXTS, "label": ["neg", "pos", "neg"]},
    "dictionary of arrays": lambda: {"text": np.array(TEXTS)},
    "array": lambda: np.array(TEXTS),
    "array of objects": lambda: np.array(TEXTS, object),
    "DataFrame": _frame,
    "DataFrame by another name": lambda: _frame().rename(columns={"text": "review"}),
    "rows of a DataFrame": lambda: list(_frame().itertuples()),
    "records of a DataFrame": lambda: _frame().to_dict("records"),
    "Series": lambda: _frame()["text"],
    "Series with another index": lambda: _frame().set_index("id")["text"],
    "rows as Series": lambda: [row for _, row in _frame().iterrows()],
    "datasets.Dataset": _datasets,
    "column of a datasets.Dataset": lambda: _datasets()["text"],
    "Arrow table": lambda: TABLE,
    "Arrow batch": lambda: TABLE.to_batches()[0],
    "Arrow column": lambda: TABLE.column("text"),
    "map style": MapStyle,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_gives_a_prediction_a_row(name, predict, alone):
    found = predict(OBJECTS[name]())
    assert the_same(found, alone)
    assert [row.get("id") for row in found] == (
        [7, 8, 9] if "DataFrame" in name or "as Series" in name else [None] * 3
    )


@pytest.mark.parametrize(
    "one",
    [
        "a b c",
        np.str_("a b c"),
        b"a b c",
        {"text": "a b c"},
        {"text": "a b c", "label": "neg"},
        np.array("a b c"),
    ],
)
def test_one_text_or_row_is_one_prediction(one, predict, alone):
    assert the_same(predict(one), alone[:1])


def test_a_row_of_a_frame_is_one_prediction(predict, alone):
    assert the_same(predict(_frame().iloc[0]), alone[:1])
    frame = _frame().rename(columns={"text": "what was said"})
    assert the_same(predict(frame.iloc[0], columns={"text": "what was said"}), alone[:1])
    rows = [row for _, row in frame.iterrows()]
    assert the_same(predict(rows, columns={"text": "what was said"}), alone)


@pytest.mark.parametrize(
    "given",
    [
        5,
        None,
        1.5,
        Path("a.csv"),
        io.StringIO("a\nb"),
        {"a", "b"},
        np.zeros(3),
        np.array([["a"]]),
        object(),
        len,
    ],
)
def test_what_holds_no_rows_is_a_usage_error(given, predict):
    with pytest.raises(UsageError, match="found .*expected|predict_file"):
        predict(given)


@pytest.mark.parametrize("given", [[5], [1.5], [["a", "b", "c"]], [{"text": "a"}, 5]])
def test_what_is_no_row_is_named(given, predict):
    with pytest.raises(DataError, match=r"row \d: "):
        predict(given)


def test_columns_of_the_recipe_name_the_roles(predict, alone):
    rows = [{"review": text, "other": "x"} for text in TEXTS]
    assert the_same(predict(rows, columns={"text": "review"}), alone)
    assert the_same(predict({"review ": TEXTS}, columns={"text": "review"}), alone)
    import pandas

    for rows in (TEXTS, ROWS, {"text": TEXTS}, pandas.DataFrame(ROWS), [(text,) for text in TEXTS]):
        assert the_same(predict(rows, columns={"text": "review"}), alone), "a role's own name does"
    paired = {"text": "review", "pair": "reply"}
    rows = [{"review": "a b c"}, {"review": "d", "reply": "e"}, "e f"]
    assert the_same(predict(rows, columns=paired)[::2], alone[::2])
    for rows in ([{"body": "a"}], {"body": ["a"]}, pandas.DataFrame({"body": ["a"]})):
        with pytest.raises(DataError, match="no column 'review'"):
            predict(rows, columns={"text": "review"})


@pytest.mark.parametrize("empty", ["", " ", None, float("nan")])
def test_an_empty_text_is_a_row(empty, forward, plain_tokenizer, predict):
    import pandas

    wanted = predict(["a", "", "b"])
    for rows in (
        [{"text": "a"}, {"text": empty}, {"text": "b"}],
        pandas.DataFrame({"text": ["a", empty, "b"]}),
    ):
        assert the_same(predict(rows), wanted)
    for column in (["a", None, "b"], pandas.Series(["a", empty, "b"])):
        assert the_same(predict(column), wanted)
    # A tokenizer that makes nothing of it: nothing is predicted, in its place.
    found = list(predict_rows(forward, TASK, plain_tokenizer, ["a", "", "b"]))
    assert found[1] == {"label": None, "probability": None, "probabilities": {"neg": None, "pos": None}}
    assert None not in (found[0]["label"], found[2]["label"])


def test_numbers_and_bytes_are_texts(predict):
    assert the_same(predict([{"text": 5}, {"text": b"a b"}]), predict(["5", "a b"]))


def test_a_paired_row_changes_no_other(predict):
    rows = [{"text": text} for text in "abcdefghij" * 20]
    before = predict(rows)
    after = predict([*rows, {"text": "a", "pair": "b"}])
    assert len(after) == 201 and the_same(after[:-1], before)
    assert not the_same(after[-1:], before[:1])


# ---------------------------------------------------------------- sentences and matches


TAGS = Tag().with_facts(labels=LabelSet(("B-X", "O")))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"words": ["a", "b"]}, [2]),
        ({"words": [["a", "b"], ["c"]]}, [2, 1]),
        ([["a", "b"], ["c"]], [2, 1]),
        ("a b", [2]),
        (["a b", ""], [2, 0]),
        ([{"tokens": ["a"]}, {"words": "b c"}], [1, 2]),
        ({"words": []}, []),
    ],
)
def test_sentences_of_every_form(given, words):
    from bigbatch.infer.unlabelled import rows_of_object

    rows = [row for _, row in rows_of_object(given, roles=TAGS.roles, columns={})]
    assert [len(row["words"]) for row in rows] == words


def test_files_of_sentences(tmp_path: Path):
    from bigbatch.infer.unlabelled import rows_of_file

    (tmp_path / "a.conll").write_text("EU B-X\nrejects O\n\nPeter O\n")
    (tmp_path / "words.conll").write_text("EU\nrejects\n\nPeter\n")
    (tmp_path / "a.txt").write_text("EU rejects\n\nPeter\n")
    (tmp_path / "a.jsonl").write_text('{"tokens": ["EU", "rejects"]}\n{"tokens": ["Peter"]}\n')
    how = {"roles": TAGS.roles, "columns": {"words": "tokens"}, "encoding": "utf-8", "quoting": "minimal"}
    wanted = [["EU", "rejects"], ["Peter"]]
    for name in ("a.conll", "words.conll", "a.jsonl"):
        assert [row["words"] for _, row in rows_of_file(tmp_path / name, **how)] == wanted, name
    assert [row["words"] for _, row in rows_of_file(tmp_path / "a.txt", **how)] == [wanted[0], [], wanted[1]]


def test_sentences_without_words_are_rows(make_forward, tokenizer):
    found = list(predict_rows(make_forward(), TAGS, tokenizer, ["", " "]))
    assert found == [{"tags": [], "entities": []}] * 2


def test_rows_to_match_may_lack_a_text():
    from bigbatch.infer.unlabelled import rows_of_object

    rows = [
        row for _, row in rows_of_object([{"query": "a"}, "b", ("c", "d")], roles=Match().roles, columns={})
    ]
    assert rows == [{"query": "a"}, {"query": "b"}, {"query": "c", "document": "d"}]
    assert Match().nothing() == {"embedding": None}


def test_rows_of_token_ids_of_every_form(forward, tokenizer):
    forward.module.eval()

    def bare(micro_batch: Any) -> Any:  # what ids a module takes is asked of real ones
        return forward(micro_batch)

    def predict(rows: Any) -> list[dict[str, Any]]:
        return list(predict_rows(bare, TASK, tokenizer, rows))

    wanted = predict(["a b"])
    for given in (
        {"input_ids": [2, 4, 5, 3]},
        {"input_ids": [[2, 4, 5, 3]]},
        [{"input_ids": np.array([2, 4, 5, 3, 0]), "attention_mask": [1, 1, 1, 1, 0]}],
        pa.table({"input_ids": [[2, 4, 5, 3]]}),
    ):
        assert the_same(predict(given), wanted)
    mixed = predict(
        [{"input_ids": [2, 4, 5, 3], "token_type_ids": [0, 0, 0, 0]}, "a b", {"input_ids": [2, 4, 5, 3]}]
    )
    assert the_same(mixed, wanted * 3)


def test_columns_of_unequal_length_are_refused(predict):
    with pytest.raises(DataError, match="unequal length"):
        predict({"text": ["a", "b"], "pair": ["c"]})


def test_a_namespace_is_no_row(predict):
    with pytest.raises(DataError, match="row 1: found SimpleNamespace"):
        predict([SimpleNamespace(text="a")])


def test_splits_are_asked_for_one_of_them(predict):
    import datasets

    with pytest.raises(DataError, match=r"pass one of them, such as data\['train'\]"):
        predict(datasets.DatasetDict(train=_datasets()))

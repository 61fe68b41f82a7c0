"""One class has one name whichever reader it came through, for what is learnt and for what is held against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bigbatch.data.checks import check_splits
from bigbatch.data.labels import LabelSet, find_labels, matched
from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.errors import DataError, Problem
from bigbatch.files.class_names import label_lists, label_of
from bigbatch.files.raw import from_table, to_table
from bigbatch.protocols import Role
from bigbatch.tasks.classify import Classify
from tests.data.tables import MULTI, SINGLE

TAGGED = {"words": Role(meaning="", kind="words"), "tags": Role(meaning="", kind="tags")}


def _csv(values: Sequence[Any], folder: Path) -> Any:
    import pandas

    pandas.DataFrame({"text": _texts(values), "label": values}).to_csv(folder / "a.csv", index=False)
    return "a.csv"


def _tsv(values: Sequence[Any], folder: Path) -> Any:
    import pandas

    frame = pandas.DataFrame({"text": _texts(values), "label": values})
    frame.to_csv(folder / "a.tsv", index=False, sep="\t")
    return "a.tsv"


def _json_lines(values: Sequence[Any], folder: Path) -> Any:
    rows = [json.dumps({"text": text, "label": value}) for text, value in _pairs(values)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    return "a.jsonl"


def _json(values: Sequence[Any], folder: Path) -> Any:
    rows = [{"text": text, "label": value} for text, value in _pairs(values)]
    (folder / "a.json").write_text(json.dumps(rows, indent=2))
    return "a.json"


def _parquet(values: Sequence[Any], folder: Path) -> Any:
    parquet.write_table(pa.table({"text": _texts(values), "label": list(values)}), folder / "a.parquet")
    return "a.parquet"


def _datasets(values: Sequence[Any], folder: Path) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"text": _texts(values), "label": list(values)})


def _pandas(values: Sequence[Any], folder: Path) -> Any:
    import pandas

    return pandas.DataFrame({"text": _texts(values), "label": list(values)})


def _dicts(values: Sequence[Any], folder: Path) -> Any:
    return [{"text": text, "label": value} for text, value in _pairs(values)]


def _numpy(values: Sequence[Any], folder: Path) -> Any:
    return {"text": np.array(_texts(values)), "label": np.array(values)}


def _torch(values: Sequence[Any], folder: Path) -> Any:
    from torch.utils.data import Dataset

    class Rows(Dataset):
        def __len__(self) -> int:
            return len(values)

        def __getitem__(self, index: int) -> Any:
            return (f"text {index}", np.array(values)[index])

    return Rows()


def _texts(values: Sequence[Any]) -> list[str]:
    return [f"text {number}" for number in range(len(values))]


def _pairs(values: Sequence[Any]) -> list[tuple[str, Any]]:
    return list(zip(_texts(values), values, strict=True))


READERS: dict[str, Callable[[Sequence[Any], Path], Any]] = {
    "csv": _csv, "tsv": _tsv, "json lines": _json_lines, "json": _json, "parquet": _parquet, "datasets": _datasets,
    "pandas": _pandas, "dicts": _dicts, "numpy": _numpy, "torch": _torch,
}  # fmt: skip


def read(source: Any, folder: Path, roles: Any = SINGLE) -> DataTable:
    return read_table(source, base=folder, columns={}, roles=roles)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([True, False, True], ["true", "false", "true"]),
        (["True", "false", "TRUE"], ["true", "false", "true"]),
        ([1, 0, 2], ["1", "0", "2"]),
        ([1.0, 0.0, 2.0], ["1", "0", "2"]),
        (["1.0", "0", "2"], ["1", "0", "2"]),
        (["nan", "NA", "null"], ["nan", "NA", "null"]),
        (["None", "en", "N/A"], ["None", "en", "N/A"]),
        ([1, -1, -100], ["1", "-1", "-100"]),
    ],
)
def test_a_class_has_one_name_in_every_format(reader, values, names, tmp_path: Path):
    table = read(READERS[reader](values, tmp_path), tmp_path)
    assert table.rows.column("label").to_pylist() == names


@pytest.mark.parametrize("learnt", READERS)
def test_what_one_format_teaches_every_other_is_held_against(learnt, tmp_path: Path):
    (tmp_path / "train").mkdir()
    train = read(READERS[learnt]([True, False, True], tmp_path / "train"), tmp_path / "train")
    labels = find_labels(train)
    for reader in READERS:
        for values in ([False, True], ["False", "True"], [0, 1], ["0.0", "1"]):
            table = read(READERS[reader](values, tmp_path), tmp_path)
            table = matched(table, "label", "single", labels, train)
            found = [labels.id_of(name) for name in table.rows.column("label").to_pylist()]
            assert found == [0, 1], (reader, values)


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_only_a_missing_cell_is_missing(missing, tmp_path: Path):
    import pandas

    for source in ([{"text": "a", "label": missing}], pandas.DataFrame({"text": ["a"], "label": [missing]})):
        assert read(source, tmp_path).rows.column("label").to_pylist() == [None]
    (tmp_path / "a.csv").write_text("text,label\na,\nb,nan\n")
    assert read("a.csv", tmp_path).rows.column("label").to_pylist() == [None, "nan"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"neg", "neg"), (np.bytes_(b"neg"), "neg"), (np.str_("neg"), "neg"), (np.bool_(True), "true"),
        (np.float32(3), "3"), (Decimal("3.00"), "3"), (Decimal("NaN"), None), (date(2024, 5, 1), "2024-05-01"),
        (np.datetime64("2024-05-01"), "2024-05-01"), ("2024-05-01 00:00:00", "2024-05-01"),
        (np.datetime64("2024-05-01T00:00:00.000000000"), "2024-05-01"), (np.datetime64("NaT"), None),
        ("12345678901234567890.0", "12345678901234567890"), ("-0.0", "0"), (-0.0, "0"),
    ],
)  # fmt: skip
def test_scalars_of_every_library(value, name):
    assert label_of(value) == name
    assert name is None or label_of(name) == name, "a name is its own name"


@pytest.mark.parametrize(
    "text",
    [
        "['a','b']", '["a"]', "['a' 'b']", "('a', 'b')", "[1, 0]", "[1. 0.]", "[1]", "{1}", "[]", "[ ]", "[a, b]",
        "['a', None]", "[None, 'b']", "(1,)", "(a, )", "[null]", "[nan]", "[true]", "[b'a']", "['a' … 'z']",
        "['a' ... 'z']", "[1 ... 9]", "('a', None)", "{'a', None}", "tensor([1., 0.])", "array(['a'], dtype=object)",
    ],
)  # fmt: skip
def test_a_list_written_as_text_is_no_class(text):
    with pytest.raises(ValueError, match="list written as text.*kind: multi"):
        label_of(text)


@pytest.mark.parametrize(
    "text", ["(none)", "[PAD]", "{x}", "a, b", "'a'", "(1)", "(a, b)", "[1st]", "tensor", "()"]
)
def test_brackets_alone_make_no_list(text):
    assert label_of(text) == text


# ---------------------------------------------------------------- several labels a row


LISTS = ["json lines", "json", "parquet", "datasets", "dicts", "pandas", "csv", "tsv"]


@pytest.mark.parametrize("reader", LISTS)
@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]],
        [[1, 0, 1], [0, 0, 0]],
        [[True, False, True], [False, False, False]],
    ],
)
def test_multi_hot_lists_are_named_columns(reader, rows, tmp_path: Path):
    table = read(READERS[reader](rows, tmp_path), tmp_path, MULTI)
    assert table.rows.column("label").to_pylist() == [["0", "2"], []]
    assert find_labels(table, kind="multi").names == ("0", "1", "2")
    named = matched(table, "label", "multi", LabelSet(("x", "y", "z")))
    assert named.rows.column("label").to_pylist() == [["x", "z"], []]
    assert find_labels(named, kind="multi").names == ("x", "y", "z")
    with pytest.raises(DataError, match="lists of 3 zeros and ones, but there are 2 labels"):
        matched(table, "label", "multi", LabelSet(("x", "y")))


@pytest.mark.parametrize("reader", LISTS)
def test_lists_of_names_and_of_class_ids(reader, tmp_path: Path):
    table = read(READERS[reader]([["a", "b"], ["b"]], tmp_path), tmp_path, MULTI)
    assert table.rows.column("label").to_pylist() == [["a", "b"], ["b"]] and not table.multi_hot
    table = read(READERS[reader]([[0, 2], [1]], tmp_path), tmp_path, MULTI)
    assert table.rows.column("label").to_pylist() == [["0", "2"], ["1"]] and not table.multi_hot


def test_lists_of_numpy_as_a_table_has_them(tmp_path: Path):
    values = [np.array(["a", "b c"]), np.array(["b c"])]
    table = read(_csv(values, tmp_path), tmp_path, MULTI)
    assert table.rows.column("label").to_pylist() == [["a", "b c"], ["b c"]]
    table = read(_csv([np.array([1.0, 0.0]), np.array([0.0, 0.0])], tmp_path), tmp_path, MULTI)
    assert table.rows.column("label").to_pylist() == [["0"], []] and table.multi_hot


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([[1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0]], "row 2: label: 3 zeros and ones, but 2 in most rows"),
        ([[1, -1], [0, 1]], "-1 is none of several labels"),
        ([[-100, 1], [0, 1]], "-100 is none of several labels"),
        ([["a", None]], "one of the labels is missing"),
        (["[a, b]"], "looks like a list and cannot be read as one"),
        ([{"a": 1}], "expected a list, found dict"),
    ],
)
def test_lists_that_mean_nothing_are_refused(rows, what, tmp_path: Path):
    with pytest.raises(DataError, match=what):
        read(_dicts(rows, tmp_path), tmp_path, MULTI)


def test_a_split_means_what_training_means(tmp_path: Path):
    ids = read(_dicts([[0, 2], [1], [0, 1]], tmp_path), tmp_path, MULTI)
    labels = find_labels(ids, kind="multi")
    looks_hot = read(_dicts([[0, 1], [1, 0]], tmp_path), tmp_path, MULTI)
    with pytest.raises(DataError, match="the training rows have names or class ids"):
        matched(looks_hot, "label", "multi", labels, ids)
    names = read(_dicts([["x"], ["y"]], tmp_path), tmp_path, MULTI)
    with pytest.raises(DataError, match="the training rows have names"):
        matched(looks_hot, "label", "multi", find_labels(names, kind="multi"), names)


def test_places_decide_for_a_column_as_a_whole():
    problem = lambda row, what: Problem(where=str(row), what=what)  # noqa: E731
    assert label_lists([[1, 0], [1]], problem)[0] == [["1", "0"], ["1"]]
    assert label_lists([[1, 0], None], problem)[0] == [["0"], None]
    assert label_lists([[1, 1, 0], [0, 0, 1]], problem)[2] == 3
    assert label_lists([[0], [1]], problem)[2] == 0, "one place: class ids"


# ---------------------------------------------------------------- declared names and orders


def _declared(folder: Path) -> dict[str, Any]:
    import datasets
    import pandas

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "neutral", "pos"])
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [2, 0]}, features=features)
    data.to_parquet(folder / "d.parquet")
    data.save_to_disk(folder / "saved")
    frame = pandas.DataFrame(
        {
            "text": ["a", "b"],
            "label": pandas.Categorical(["pos", "neg"], ["neg", "neutral", "pos"], ordered=True),
        }
    )
    frame.to_parquet(folder / "c.parquet")
    frame.to_feather(folder / "c.feather")
    return {
        "ClassLabel": data,
        "ClassLabel in Parquet": "d.parquet",
        "ClassLabel on disk": str(next((folder / "saved").glob("*.arrow")).relative_to(folder)),
        "Categorical": frame,
        "Categorical in Parquet": "c.parquet",
        "Categorical in Feather": "c.feather",
        "Categorical as Arrow": pa.Table.from_pandas(frame),
    }


def test_a_declared_order_is_kept(tmp_path: Path):
    for name, source in _declared(tmp_path).items():
        table = read(source, tmp_path)
        assert table.rows.column("label").to_pylist() == ["pos", "neg"], name
        assert find_labels(table).names == ("neg", "neutral", "pos"), name


def test_without_an_order_names_are_sorted(tmp_path: Path):
    import pandas

    frame = pandas.DataFrame({"text": ["a", "b"], "label": pandas.Categorical(["z", "b"], ["z", "b"])})
    assert find_labels(read(frame, tmp_path)).names == ("b", "z")


def test_rows_that_a_tokenizer_was_mapped_over_keep_the_names():
    import datasets

    names = ["neg", "neutral", "pos"]
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [2, 0]}, features=features)
    mapped = data.map(lambda row: {"input_ids": [1, 2]})
    for source in (mapped, mapped.rename_column("label", "labels")):
        table = read(source, Path())
        assert table.tokenised and find_labels(table).names == tuple(names)
        assert table.rows.column("labels").to_pylist() == ["pos", "neg"]
    with pytest.raises(DataError, match="row 1: labels: the data has pos, which is not among"):
        find_labels(read(mapped, Path()), keep=["neg", "neutral"])


def test_tags_laid_on_tokens_keep_the_names_of_the_one_column_they_fit():
    import datasets

    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER", "B-LOC"]))
    pos = datasets.Sequence(datasets.ClassLabel(names=["NOUN", "VERB", "X", "Y"]))
    features = datasets.Features(
        tokens=datasets.Sequence(datasets.Value("string")), ner_tags=tags, pos_tags=pos
    )
    rows = {
        "tokens": [["Bob", "sleeps"], ["in", "Rome"]],
        "ner_tags": [[1, 0], [0, 2]],
        "pos_tags": [[0, 1], [3, 0]],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    mapped = data.map(lambda row: {"input_ids": [5, 6, 7, 8], "labels": [-100, *row["ner_tags"], -100]})
    table = read(mapped, Path(), TAGGED)
    assert find_labels(table, "tags", "tags").names == ("O", "B-PER", "B-LOC")
    words = read_table(data, base=Path(), columns={"tags": "ner_tags"}, roles=TAGGED)
    assert find_labels(words, "tags", "tags").names == ("O", "B-PER", "B-LOC")


def test_names_and_orders_travel_to_other_processes(tmp_path: Path):
    from bigbatch.data.objects import read_object

    for name, source in _declared(tmp_path).items():
        if not isinstance(source, str):
            sent = from_table("", to_table(read_object(source, ["text", "label"])))
            assert find_labels(read(to_table(sent), tmp_path)).names == ("neg", "neutral", "pos"), name


def test_a_model_that_writes_its_names_otherwise_knows_the_same_classes():
    assert LabelSet(("False", "True")).id_of(True) == 1
    assert LabelSet(("1.0", "2.0")).id_of(2) == 1
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    train = read_table(rows, base=Path(), columns={}, roles=SINGLE)
    assert check_splits(train, {"main": train}, None, kind="single", labels=LabelSet(("True", "False"))) == [
        "2 rows of validation (100.0 %) are also in train, so its figures flatter; the first: validation row 1"
    ]
    with pytest.raises(DataError, match="two of these names are one class: True, true"):
        find_labels(train, keep=["True", "true"])


# ---------------------------------------------------------------- what is not counted


@pytest.mark.parametrize("tags", [[1, -100], ["1", "-100"], "1 -100", "[1, -100]", np.array([1, -100])])
def test_a_tag_of_minus_100_is_no_class(tags, tmp_path: Path):
    table = read([{"words": ["Bob", "sleeps"], "tags": tags}], tmp_path, TAGGED)
    assert find_labels(table, "tags", "tags").names == ("1",)


@pytest.mark.parametrize("tags", [[1, -1], ["1", "-1"], "1 -1", "[1, -1]", np.array([1.0, -1.0])])
def test_a_tag_of_minus_1_is_refused(tags, tmp_path: Path):
    with pytest.raises(
        DataError, match="tag 2 is -1; expected a tag, or -100 for a word that is not counted"
    ):
        read([{"words": ["Bob", "sleeps"], "tags": tags}], tmp_path, TAGGED)


def test_a_label_of_minus_100_is_no_class(tmp_path: Path):
    for reader in READERS.values():
        table = read(reader([1, 0, -100], tmp_path), tmp_path)
        labels = find_labels(table)
        assert labels.names == ("0", "1")
        assert [labels.id_of(name) for name in table.rows.column("label").to_pylist()] == [1, 0, -100]


# ---------------------------------------------------------------- rows of token ids


IDS = [{"input_ids": [2, 4, 3]}, {"input_ids": [2, 5, 3]}, {"input_ids": [2, 6, 3]}]


def _with_labels(values: Sequence[Any]) -> list[dict[str, Any]]:
    return [{**row, "labels": value} for row, value in zip(IDS, values, strict=True)]


@pytest.mark.parametrize(
    ("values", "names", "ids"),
    [
        ([1, 0, 1], ("0", "1"), [1, 0, 1]),
        ([1.0, 0.0, 1.0], ("0", "1"), [1, 0, 1]),
        ([1, 0, -100], ("0", "1"), [1, 0, -100]),
        (["pos", "neg", "pos"], ("neg", "pos"), [1, 0, 1]),
        (["True", "false", "TRUE"], ("false", "true"), [1, 0, 1]),
        ([True, False, True], ("false", "true"), [1, 0, 1]),
        (["nan", "b", "-100"], ("b", "nan"), [1, 0, -100]),
    ],
)
def test_rows_of_token_ids_have_ids_or_names(values, names, ids):
    task = Classify()
    table = read_table(_with_labels(values), base=Path(), columns={}, roles=task.roles)
    labels = find_labels(table, "label")
    assert labels.names == names
    task = Classify().with_facts(labels=labels)
    found = [task.encode(row, None) for row in table.rows.to_pylist()]
    assert [int(sample.values[0]) for sample in found] == ids
    assert [sample.weights[0] for sample in found] == [float(value >= 0) for value in ids]
    check_splits(table, {}, None, kind="single", labels=labels, roles=task.roles)
    other = read_table(_with_labels(values), base=Path(), columns={}, roles=task.roles)
    assert find_labels(matched(other, "label", "single", labels), "label", keep=labels.names) == labels


@pytest.mark.parametrize("values", [[-1, 0, 1], [1.5, 0.0, 1.0]])
def test_ids_that_are_none_are_refused(values):
    with pytest.raises(DataError, match="row 1: labels: .*expected a class id: 0, 1, 2, … or -100"):
        read_table(_with_labels(values), base=Path(), columns={}, roles=SINGLE)


def test_several_names_a_row_of_token_ids():
    task = Classify(kind="multi")
    rows = _with_labels([["a", "b"], [], ["b"]])
    table = read_table(rows, base=Path(), columns={}, roles=task.roles)
    labels = find_labels(table, "label", "multi")
    task = Classify(kind="multi").with_facts(labels=labels)
    found = [task.encode(row, None).values.tolist() for row in table.rows.to_pylist()]
    assert labels.names == ("a", "b") and found == [[[1, 1]], [[0, 0]], [[0, 1]]]


def test_an_ordered_categorical_beside_token_ids():
    import pandas

    frame = pandas.DataFrame({"input_ids": [[1, 2], [1, 3]], "labels": ["lo", "hi"]})
    frame["labels"] = pandas.Categorical(frame["labels"], ["lo", "hi"], ordered=True)
    assert find_labels(read_table(frame, base=Path(), columns={}, roles=SINGLE)).names == ("lo", "hi")


@pytest.mark.parametrize("start", ["[", "[1", "['a'", "[1,", "[1 "])
def test_a_cell_of_very_many_blanks_is_read_at_once(start: str) -> None:
    text = start + " " * 300_000 + "x"
    assert label_of(text) == text, "a list that never ends is text; in quadratic time this takes hours"


@pytest.mark.parametrize("value", [Decimal("Infinity"), Decimal("-Infinity"), float("inf")])
def test_what_is_infinite_is_no_class(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a class"):
        label_of(value)


@pytest.mark.parametrize("reader", ["json lines", "dicts", "csv"])
@pytest.mark.parametrize(
    "rows",
    [
        [["1", "0", "1"], ["0", "0", "0"]],
        ["1|0|1", "0|0|0"],
        ["['1', '0', '1']", "['0', '0', '0']"],
    ],
)
def test_multi_hot_written_as_texts_are_columns_too(reader, rows, tmp_path: Path):
    table = read(READERS[reader](rows, tmp_path), tmp_path, MULTI)
    assert table.rows.column("label").to_pylist() == [["0", "2"], []]


def test_multi_hot_texts_of_unequal_length_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="row 3: label: 2 zeros and ones, but 3 in most rows"):
        read(_dicts(["1|0|1", "1|1|0", "0|1"], tmp_path), tmp_path, MULTI)


def test_a_printed_tensor_is_no_name_of_several(tmp_path: Path):
    with pytest.raises(DataError, match="a tensor as it prints; write it as a list"):
        read(_dicts(["tensor([1., 0.])", "tensor([0., 1.])"], tmp_path), tmp_path, MULTI)


def test_members_of_an_enum_are_their_values(tmp_path: Path):
    class Mood(str, Enum):  # noqa: UP042 (str() of a StrEnum is its value already)
        GOOD = "pos"
        BAD = "neg"

    assert label_of(Mood.GOOD) == "pos" and label_of(Enum("Number", {"ONE": 1})(1)) == "1"
    assert read(_dicts([Mood.GOOD, Mood.BAD], tmp_path), tmp_path).rows.column("label").to_pylist() == [
        "pos",
        "neg",
    ]


def test_what_is_not_counted_is_no_name_of_a_class(tmp_path: Path):
    table = read(_dicts(["x", "y", "-100"], tmp_path), tmp_path)
    with pytest.raises(DataError, match="-100 marks what is neither learnt nor scored"):
        find_labels(table, keep=["x", "y", "-100"])

"""Sources of every kind become the same table with a column per role."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bigbatch.errors import DataError
from tests.data.tables import MULTI, PAIRED, REGRESSION, SINGLE, read

ROWS = [
    {"id": "r1", "text": "one", "label": "a", "more": 1},
    {"id": "r2", "text": "two", "label": "b", "more": 2},
]
WANTED = {"text": ["one", "two"], "label": ["a", "b"], "id": ["r1", "r2"]}


@dataclass
class DataFile:
    path: str
    columns: dict[str, str] | None = None
    share: float | None = None


class MapStyle:
    """What torch calls a map-style dataset."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def as_pandas(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


def as_hugging_face(rows):
    return pytest.importorskip("datasets").Dataset.from_list(rows)


def as_torch(rows):
    torch = pytest.importorskip("torch")

    class Dataset(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            return rows[index]

    return Dataset()


OBJECTS = {
    "list of dicts": list,
    "map style": MapStyle,
    "pandas": as_pandas,
    "datasets": as_hugging_face,
    "torch": as_torch,
    "arrow": pa.Table.from_pylist,
    "columns": lambda rows: {key: [row[key] for row in rows] for key in rows[0]},
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_of_every_kind(name: str):
    table = read(OBJECTS[name](ROWS), roles=SINGLE)
    assert table.rows.to_pydict() == WANTED
    assert [table.where(row) for row in range(2)] == ["row 1", "row 2"]


def test_a_table_is_taken_as_it_is():
    table = read(ROWS)
    assert read(table) is table


@pytest.mark.parametrize("name", ["map style", "torch"])
def test_tuples_take_the_roles_in_order(name: str):
    torch = pytest.importorskip("torch")
    table = read(OBJECTS[name]([("one", torch.tensor(1)), ("two", torch.tensor(0))]))
    assert table.rows.to_pydict() == {"text": ["one", "two"], "label": ["1", "0"]}


def test_class_labels_of_datasets_have_their_names():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"])
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    assert read(data).rows.column("label").to_pylist() == ["pos", "neg", None]
    with pytest.raises(
        DataError, match=r"DatasetDict with splits train; pass one of them, such as data\['train'\]"
    ):
        read(datasets.DatasetDict(train=data))
    with pytest.raises(DataError, match="no length and no rows by number"):
        read(data.to_iterable_dataset())


def test_pandas_missing_values():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "text": ["a", None, "c"],
            "label": pandas.array([1, pandas.NA, 3], "Int64"),
            "number": [1.5, None, 2],
        }
    )
    assert read(frame).rows.to_pydict() == {"text": ["a", None, "c"], "label": ["1", None, "3"]}
    columns = {"label": "number"}
    numbers = read(frame, roles=REGRESSION, columns=columns).rows.column("label").to_pylist()
    assert numbers[0] == 1.5 and numbers[1] != numbers[1] and numbers[2] == 2.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no rows"),
        ([1, 2], "row 1: found int; expected a dictionary, or a tuple"),
        ([("a", "b", "c")], "row 1: found a tuple of 3"),
        ({"text": ["a"], "label": [1, 2]}, "unequal length"),
        (5, "found int, which has no length"),
        ([{"text": ["a"], "label": 1}], "row 1: text: expected text, found list"),
        (
            [{"text": "a", "label": 1}, {"text": "b", "label": "x"}],
            "row 2: label: mixed label types: here it is text",
        ),
        (
            [{"text": "a", "label": True}, {"text": "b", "label": 0}],
            "row 2: label: mixed label types: .* a number",
        ),
        ([{"text": "a", "label": 0.5}], "0.5 is not a class.*kind: regression"),
        ([{"text": "a", "label": ["x"]}], "expected a label, found list; for several labels a row"),
        ([{"text": "\ud800", "label": 1}], "row 1: text: half a surrogate pair"),
    ],
)
def test_objects_that_cannot_be_used(data: Any, message: str):
    with pytest.raises(DataError, match=message):
        read(data)


def test_several_files_are_one_table_that_knows_each_row(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label,x\none,1,9\ntwo,2,9\n")
    (tmp_path / "b.jsonl").write_text('\n{"body": "three", "label": 3.0, "id": 7}\n')
    table = read([DataFile("a.csv"), DataFile("b.jsonl", columns={"text": "body"})], base=tmp_path)
    assert table.rows.to_pydict() == {
        "text": ["one", "two", "three"],
        "label": ["1", "2", "3"],
        "id": [None, None, "7"],
    }
    assert [table.where(row) for row in range(3)] == ["a.csv:2", "a.csv:3", "b.jsonl:2"]
    part = table.take(pa.array([1, 2]).to_numpy())
    assert [part.where(row) for row in range(2)] == ["a.csv:3", "b.jsonl:2"]
    assert read("a.csv", base=tmp_path).rows.num_rows == 2
    assert read([tmp_path / "a.csv", "a.csv"], base=tmp_path).rows.num_rows == 4


def test_a_mixture_knows_where_each_of_its_sources_begins(tmp_path: Path):
    for name, rows in (("a1", 2), ("a2", 1), ("b", 3)):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "x,y\n" * rows + ",y\n")
    files = [DataFile("a*.csv", share=0.5), DataFile("b.csv", share=0.5)]
    assert read(files, base=tmp_path).sources == (0, 5)
    table = read(files, base=tmp_path, empty_text="drop")
    assert (len(table), table.sources) == (6, (0, 3))
    assert table.take(np.array([1, 4, 5])).sources == (0, 1)
    assert read([DataFile("b.csv")], base=tmp_path).sources == ()


def test_a_missing_column_names_the_nearest_and_lists_those_there(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,stars\na,1\n")
    with pytest.raises(DataError) as caught:
        read("a.csv", base=tmp_path, columns={"label": "star"})
    assert (
        str(caught.value)
        == "a.csv: data.columns.label: no column 'star'; did you mean stars? There are: text, stars"
    )


def test_multi_label_text_is_separated_by_bars():
    rows = [{"text": "a", "label": "x | y|x"}, {"text": "b", "label": ""}, {"text": "c", "label": "1.0"}]
    assert read(rows, roles=MULTI).rows.column("label").to_pylist() == [["x", "y"], [], ["1"]]
    rows = [{"text": "a", "label": ["x", 2]}, {"text": "b", "label": None}, {"text": "c", "label": []}]
    assert read(rows, roles=MULTI).rows.column("label").to_pylist() == [["x", "2"], None, []]
    with pytest.raises(DataError, match="row 1: label: one of the labels is missing"):
        read([{"text": "a", "label": ["x", None]}], roles=MULTI)


def test_numbers_are_read_from_text_and_bad_ones_named(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,score\na,1.5\nb,-2e3\nc,\n")
    assert read("a.csv", REGRESSION, tmp_path).rows.column("label").to_pylist() == [1.5, -2000.0, None]
    (tmp_path / "a.csv").write_text("text,score\na,1.5\nb,good\n")
    with pytest.raises(DataError, match=r"^a.csv:3: score: expected a number, found 'good'$"):
        read("a.csv", REGRESSION, tmp_path)


def test_optional_roles_are_there_or_not():
    assert read(ROWS, roles=PAIRED).rows.column_names == ["text", "label", "id"]
    pairs = [{"sentence1": "a", "sentence2": "b", "label": 1}]
    assert read(pairs, roles=PAIRED).rows.to_pylist() == [{"text": "a", "pair": "b", "label": "1"}]


def test_empty_texts_are_kept_for_the_checks_or_dropped_and_counted(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label\na,1\n ,2\n,3\nb,4\n")
    assert len(read("a.csv", base=tmp_path)) == 4
    table = read("a.csv", base=tmp_path, empty_text="drop")
    assert table.rows.to_pydict() == {"text": ["a", "b"], "label": ["1", "4"]}
    assert table.warnings == ("2 rows with empty text were left out, the first at a.csv:3",)
    assert [table.where(row) for row in range(2)] == ["a.csv:2", "a.csv:5"]


TOKENS = [
    {"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0], "labels": -100},
    {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": 1},
]


@pytest.mark.parametrize("name", OBJECTS)
def test_rows_of_token_ids_are_taken_as_they_are(name: str):
    table = read(OBJECTS[name](TOKENS))
    assert table.tokenised
    assert table.rows.to_pylist() == TOKENS


def test_label_of_token_rows_goes_by_any_of_its_names():
    rows = [{"input_ids": [1], "label": 1, "text": "kept out"}]
    assert read(rows).rows.to_pylist() == [{"input_ids": [1], "labels": 1}]
    rows = [{"input_ids": [1], "label": 1, "stars": 4}]
    assert read(rows, columns={"label": "stars"}).rows.to_pylist() == [{"input_ids": [1], "labels": 4}]
    with pytest.raises(DataError, match=r"no column 'star'; did you mean stars\?"):
        read(rows, columns={"label": "star"})
    assert not read([{"input_ids": [1], "label": 1, "text": "a"}], columns={"text": "text"}).tokenised


def test_a_frame_as_a_dictionary_is_read_by_row():
    import pandas

    frame = pandas.DataFrame({"text": ["a", "b"], "label": ["x", "y"]}, index=[5, 3])
    found = read(frame.to_dict())
    assert found.rows.to_pylist() == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def test_a_row_of_a_folder_is_called_by_its_file(tmp_path: Path):
    for name, text in (("neg/a.txt", "bad"), ("pos/b.txt", ""), ("pos/c.txt", "good")):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
    table = read("texts", base=tmp_path)
    assert [table.where(row) for row in range(3)] == ["texts/neg/a.txt", "texts/pos/b.txt", "texts/pos/c.txt"]
    assert table.take(np.array([1])).where(0) == "texts/pos/b.txt"

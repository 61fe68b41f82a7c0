"""Class ids of rows of token ids whose column says what they are called: matched by name, as all names are."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from bigbatch.data.labels import LabelSet, find_labels, matched
from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.errors import DataError
from bigbatch.protocols import Role

SINGLE = {"text": Role(meaning="the text"), "label": Role(meaning="the class", kind="label")}
MULTI = {"text": Role(meaning="the text"), "label": Role(meaning="the labels", kind="labels")}
TAGS = {"words": Role(meaning="words", kind="words"), "tags": Role(meaning="tags", kind="tags")}


def rows(labels, names=None, column="labels", **more) -> datasets.Dataset:
    """Rows of token ids; with `names`, the column is a ClassLabel (a list of them where the labels are lists)."""
    data = datasets.Dataset.from_dict({"input_ids": [[1, 2]] * len(labels), column: labels, **more})
    if names is None:
        return data
    one = datasets.ClassLabel(names=names)
    return data.cast_column(column, datasets.Sequence(one) if isinstance(labels[0], list) else one)


def read(data, roles=SINGLE) -> DataTable:
    return read_table(data, base=Path(), columns={}, roles=roles)


def files(folder: Path, *parts: datasets.Dataset, roles=SINGLE) -> DataTable:
    paths = [folder / f"{number}.parquet" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        part.to_parquet(str(path))
    return read(paths, roles)


def labels_of(table: DataTable) -> list:
    return table.rows.column("labels").to_pylist()


def test_files_with_opposite_orders_are_joined_by_name(tmp_path):
    table = files(tmp_path, rows([0, 1], ["good", "bad"]), rows([0, 1], ["bad", "good"]))
    assert labels_of(table) == ["good", "bad", "bad", "good"]
    assert find_labels(table).names == ("bad", "good")


def test_ids_without_names_are_places_in_the_order_of_the_file_that_has_names(tmp_path):
    table = files(tmp_path, rows([0, 1]), rows([0, 1], ["good", "bad"]))
    assert labels_of(table) == ["good", "bad", "good", "bad"] and find_labels(table).names == ("good", "bad")


def test_ids_without_names_beside_two_orders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"\['good', 'bad'\] and \['bad', 'good'\]"):
        files(tmp_path, rows([0]), rows([0, 1], ["good", "bad"]), rows([0, 1], ["bad", "good"]))


def test_an_order_that_is_given_moves_the_ids_and_not_the_names():
    table = read(rows([0, 1], ["good", "bad"]))
    given = find_labels(table, keep=["bad", "good"])
    assert [given.id_of(name) for name in labels_of(table)] == [1, 0]


def test_a_split_in_another_order_is_matched_by_name():
    train, other = read(rows([0, 1], ["true", "false"])), read(rows([0, 1], ["false", "true"]))
    known = find_labels(train)
    assert [known.id_of(name) for name in labels_of(matched(other, "label", "single", known, train))] == [
        1,
        0,
    ]


def test_named_ids_against_classes_that_are_called_by_their_ids_stay_where_they_are():
    train, other = read(rows([0, 1, 1])), read(rows([1, 0], ["neg", "pos"]))
    assert labels_of(matched(other, "label", "single", find_labels(train), train)) == ["1", "0"]
    assert labels_of(matched(other, "label", "single", LabelSet(("LABEL_0", "LABEL_1")))) == [
        "LABEL_1",
        "LABEL_0",
    ]


def test_ids_without_names_are_refused_where_training_and_model_have_different_orders():
    train, bare = read(rows([0, 1], ["good", "bad"])), read(rows([0, 1]))
    assert matched(bare, "label", "single", find_labels(train), train) is bare
    with pytest.raises(DataError, match=r"\['good', 'bad'\], the model's in \['bad', 'good'\]"):
        matched(bare, "label", "single", LabelSet(("bad", "good")), train)


def test_a_list_of_named_ids_is_never_multi_hot():
    table = read(rows([[0, 1], [1, 0], [1]], ["z", "a"]), MULTI)
    assert labels_of(table) == [["z", "a"], ["a", "z"], ["a"]] and not table.multi_hot
    assert find_labels(table, kind="multi").names == ("z", "a")


def test_tags_laid_on_tokens_have_the_names_of_their_column():
    own = datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"]))
    data = rows([[-100, 1], [0, -100]], tags=[[1], [0]]).cast_column("tags", own)
    assert labels_of(read(data, TAGS)) == [["-100", "B-X"], ["O", "-100"]]


@pytest.mark.parametrize("names", [["a ", "a", "b"], ["1", "1.0", "b"], ["True", "true", "b"]])
@pytest.mark.parametrize("tokens", [True, False])
def test_names_that_are_one_class_are_refused(names, tokens):
    data = rows([0, 1, 2], names, text=["x", "y", "z"])
    with pytest.raises(DataError, match=f"two of these names are one class.*{names[0]!r}, {names[1]!r}"):
        read(data if tokens else data.remove_columns("input_ids"))


@pytest.mark.parametrize("tokens", [True, False])
def test_an_id_without_a_name_is_refused_with_its_row(tokens, tmp_path):
    data = datasets.Dataset.from_dict({"input_ids": [[1]] * 2, "text": ["x", "y"], "label": [0, 1]})
    data = data.cast_column("label", datasets.ClassLabel(names=["neg", "pos"]))
    table = data.data.table.set_column(2, data.data.table.schema.field("label"), [[0, 7]])
    data = datasets.Dataset(table)
    with pytest.raises(DataError, match="row 2: label.*class id 7, but the column has 2 names: neg, pos"):
        read(data if tokens else data.remove_columns("input_ids"))


def _several(lists) -> DataTable:
    return read([{"text": f"t{number}", "label": labels} for number, labels in enumerate(lists)], MULTI)


def _against(table, train) -> DataTable:
    labels = find_labels(train, kind="multi")
    return matched(table, "label", "multi", labels, train)


def test_multi_hot_lists_and_class_ids_are_never_held_against_each_other():
    ids, hot, either = (
        _several([[0], [1], [0, 1]]),
        _several([[0, 1, 1], [1, 1, 0]]),
        _several([[0, 1], [1, 0]]),
    )
    with pytest.raises(
        DataError, match="row 1: label: lists of zeros and ones, but the training rows have names"
    ):
        _against(either, ids)
    with pytest.raises(DataError, match="row 1: label: class ids, but the training rows are lists of zeros"):
        _against(_several([[2], [0]]), hot)
    assert _against(either, _several([[0, 1], [1, 1]])).multi_hot


def test_lists_that_may_be_either_are_refused_where_nothing_tells():
    either, labels = _several([[0, 1], [1, 0]]), LabelSet(("0", "1"))
    with pytest.raises(DataError, match="multi-hot, or class ids?"):
        matched(either, "label", "multi", labels)
    assert matched(either, "label", "multi", LabelSet(("z", "a"))).rows.column("label").to_pylist() == [
        ["a"],
        ["z"],
    ]
    assert matched(_several([[0, 1], [1, 1]]), "label", "multi", labels).multi_hot

from __future__ import annotations

import numpy as np
import pytest

from bigbatch.data.labels import LabelSet, find_labels, is_integer_name, sorted_labels
from bigbatch.errors import DataError
from bigbatch.protocols import Role
from tests.data.tables import MULTI, read

TAGGED = {"words": Role(meaning="", kind="words"), "tags": Role(meaning="", kind="tags")}


def table(*labels, roles=None, **more):
    rows = [{"text": "a", "label": label} for label in labels]
    return read(rows, **({"roles": roles} if roles else {}), **more)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((10, 9, 2), ("2", "9", "10")),
        (("10", "9", "2.0"), ("2", "9", "10")),
        ((-1, 0, 1), ("-1", "0", "1")),
        (("b", "a", "B"), ("B", "a", "b")),
        (("10", "9", "x"), ("10", "9", "x")),
        (("007", "10", "9"), ("007", "10", "9")),
        ((True, False), ("false", "true")),
        (("b", None, "a"), ("a", "b")),
    ],
)
def test_labels_are_sorted(labels, names):
    assert find_labels(table(*labels)).names == names


def test_a_label_set_knows_every_form_of_a_label():
    labels = LabelSet(("1", "2", "true", "x"))
    assert [labels.id_of(label) for label in (1, "2.0", True, " x ", np.int64(2))] == [0, 1, 2, 3, 1]
    assert labels.id2label == {0: "1", 1: "2", 2: "true", 3: "x"} and len(labels) == 4
    with pytest.raises(KeyError, match=r"no class 'negativ'; did you mean negative\?"):
        LabelSet(("negative", "positive")).id_of("negativ")


def test_several_labels_a_row_and_numbers():
    assert find_labels(table("b|a", "c", "", roles=MULTI), kind="multi").names == ("a", "b", "c")
    assert find_labels(table(1, 2), kind="regression").names == ()


def test_a_given_order_is_kept_and_may_have_more():
    assert find_labels(table("a", "b"), keep=["b", "a", "c"]).names == ("b", "a", "c")
    assert find_labels(table(1, 2), keep=[2, 1]).names == ("2", "1")
    with pytest.raises(
        DataError, match="row 2: label: the data has b, which is not among the labels given: a, c"
    ):
        find_labels(table("a", "b"), keep=["a", "c"])


def test_class_ids_of_token_rows():
    def ids(*labels):
        return read([{"input_ids": [1], "labels": label} for label in labels])

    assert find_labels(ids(0, 2, -100)).names == ("0", "1", "2")
    tags = read([{"input_ids": [1, 2], "labels": label} for label in ([0, -100], [3, 1])], TAGGED)
    assert find_labels(tags).names == ("0", "1", "2", "3")
    hot = read([{"input_ids": [1], "labels": label} for label in ([0.0, 1.0], [1.0, 1.0])], MULTI)
    assert find_labels(hot, kind="multi").names == ("0", "1")
    assert find_labels(ids(0, 1), keep=["neg", "pos"]).names == ("neg", "pos")
    with pytest.raises(DataError, match="class id 2, but there are 2 classes"):
        find_labels(ids(0, 2), keep=["neg", "pos"])
    with pytest.raises(DataError, match="row 2: labels: found -1; expected a class id: 0, 1, 2, … or -100"):
        ids(0, -1)
    with pytest.raises(DataError, match="row 1: labels: rows of token ids need a column labels"):
        find_labels(read([{"input_ids": [1]}]))


def test_integers_in_their_usual_form():
    assert [name for name in ("0", "-3", "12", "007", "1.0", "+1", "", "x1", "-0") if is_integer_name(name)] == [
        "0", "-3", "12", "-0",
    ]  # fmt: skip
    assert sorted_labels([]) == []

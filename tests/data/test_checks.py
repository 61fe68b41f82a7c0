"""What is wrong with the splits is an error or a counted warning before update 1."""

from __future__ import annotations

import numpy as np
import pytest

from bigbatch.data.checks import check_splits
from bigbatch.data.labels import LabelSet, find_labels
from bigbatch.errors import DataError
from tests.data.tables import MULTI, PAIRED, REGRESSION, SINGLE, read

GOOD = [("one", "a"), ("two", "b"), ("three", "a")]


def table(pairs, roles=SINGLE):
    return read([{"text": text, "label": label} for text, label in pairs], roles=roles)


def check(train=GOOD, validation=None, test=None, kind="single", roles=SINGLE, labels=None) -> list[str]:
    train = train if hasattr(train, "rows") else table(train, roles)
    sets = {name: table(pairs, roles) for name, pairs in (validation or {}).items()}
    tested = table(test, roles) if test is not None else None
    labels = labels or find_labels(train, kind=kind)
    return check_splits(train, sets, tested, kind=kind, labels=labels, roles=roles)


def errors(*args, **kwargs) -> list[str]:
    with pytest.raises(DataError) as caught:
        check(*args, **kwargs)
    return str(caught.value).splitlines()


def test_good_data_has_nothing_to_say():
    assert check(validation={"main": [("four", "a")]}, test=[("five", "b")]) == []


def test_rows_that_lack_something_are_listed():
    lines = errors([("one", "a"), ("", "b"), (None, None), ("\u3000 \n", "a")], test=[("x", float("nan"))])
    empty = "text: empty text; remove the row, or set data.empty_text: drop to leave such rows out"
    assert lines == [
        f"train row 2: {empty}",
        "train row 3: label: missing label",
        f"train row 3: {empty}",
        f"train row 4: {empty}",
        "test row 1: label: missing label",
    ]


def test_the_list_is_cut_at_twenty_and_counted():
    lines = errors([("", "a")] * 51)
    assert len(lines) == 21 and lines[-1] == "and 31 more"


def test_splits_without_rows():
    with pytest.raises(DataError, match=r"^train: no rows to use as train$"):
        check(table(GOOD).take(np.empty(0, np.int64)), labels=LabelSet(("a", "b")))
    none = read({"text": [], "label": []})
    with pytest.raises(DataError, match=r"^train: no rows to use as train\ntest: no rows to use as test$"):
        check_splits(none, {}, none, kind="single", labels=LabelSet(()))


def test_one_class_is_nothing_to_learn():
    assert errors([("one", "a"), ("two", "a")]) == [
        "train: label: every row has the label 'a'; there is nothing to learn"
    ]
    assert check([("one", "a"), ("two", "a|b")], roles=MULTI, kind="multi") == []
    assert errors([("one", ""), ("two", "")], roles=MULTI, kind="multi") == [
        "train: label: no row has a label; there is nothing to learn"
    ]


def test_a_label_that_training_never_sees():
    lines = errors(validation={"hard": [("x", "c"), ("y", "a"), ("z", "c")]}, test=[("w", "d")])
    assert lines == [
        "validation.hard row 1: label: label 'c' (2 rows of validation.hard) does not occur in the training data",
        "test row 1: label: label 'd' (1 rows of test) does not occur in the training data",
    ]
    assert errors([("x", "a"), ("y", "b")], test=[("z", "a|c")], roles=MULTI, kind="multi") == [
        "test row 1: label: label 'c' (1 rows of test) does not occur in the training data"
    ]


def test_a_label_that_only_the_recipe_names_is_a_warning():
    assert check(test=[("x", "c")], labels=LabelSet(("a", "b", "c"))) == [
        "no training row has the label c; the model cannot learn it"
    ]


def test_shared_rows_are_counted():
    warnings = check(validation={"main": [("two", "b"), ("new", "a")]}, test=[("one", "b"), ("two", "b")])
    assert warnings == [
        "1 rows of validation (50.0 %) are also in train, so its figures flatter; the first: validation row 1",
        "2 rows of test (100.0 %) are also in train, so its figures flatter; the first: test row 1",
    ]


def test_rows_are_shared_only_if_all_texts_are():
    rows = [{"text": "a", "pair": "b", "label": 1}, {"text": "c", "pair": "d", "label": 2}]
    train = read(rows, roles=PAIRED)
    other = read([{"text": "a", "pair": "d", "label": 1}], roles=PAIRED)
    same = read([{"text": "a", "pair": "b", "label": 1}], roles=PAIRED)
    for test, count in ((other, 0), (same, 1)):
        found = check_splits(train, {}, test, kind="single", labels=find_labels(train), roles=PAIRED)
        assert len(found) == count


def test_equal_texts_with_different_labels():
    pairs = [("a", 1), ("b", 1), ("a", 1), ("a", 2), ("b", 1), ("c", 2), ("d", 1), ("d", 2)]
    assert check(pairs) == [
        "2 texts occur with different labels (5 rows), the first: train row 1 and train row 4"
    ]


def test_ids_that_occur_twice():
    rows = [{"text": str(i), "label": i % 2, "id": i // 2} for i in range(4)]
    train = read(rows)
    assert check_splits(train, {}, None, kind="single", labels=find_labels(train)) == [
        "2 ids of train occur more than once, such as '0'"
    ]


def test_labels_that_mix_numbers_and_words_in_a_file_without_types(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,x\nc,2\n")
    assert check(read("a.csv", base=tmp_path)) == ["labels mix numbers (1, 2) and words (x); is that meant?"]


def test_commas_in_several_labels():
    pairs = [("a", "x,y"), ("b", "x")]
    assert check(pairs, roles=MULTI, kind="multi") == [
        "1 labels contain a comma, such as 'x,y': several labels are separated by |"
    ]
    assert check([("a", "x, y|z"), ("b", "x")], roles=MULTI, kind="multi") == []


def test_numbers_must_be_finite():
    lines = errors(
        [("a", 1.0), ("b", float("nan")), ("c", float("inf")), ("d", None)],
        roles=REGRESSION,
        kind="regression",
    )
    assert lines == [
        "train row 2: label: nan: expected a finite number",
        "train row 3: label: inf: expected a finite number",
        "train row 4: label: missing number",
    ]
    assert check([("a", 1.0), ("b", 1.0)], roles=REGRESSION, kind="regression") == [
        "every training row has the same number, 1.0; there is nothing to learn"
    ]


def test_places_are_those_of_the_file_and_warnings_of_reading_come_first(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nx,1\n,2\ny,2\nx,2\n")
    train = read("a.csv", base=tmp_path, empty_text="drop")
    assert check(train) == [
        "1 rows with empty text were left out, the first at a.csv:3",
        "1 texts occur with different labels (2 rows), the first: a.csv:2 and a.csv:5",
    ]
    with pytest.raises(DataError, match=r"^a.csv:3: text: empty text"):
        check(read("a.csv", base=tmp_path))


def test_rows_of_token_ids():
    def ids(*rows):
        return read([{"input_ids": list(row), "labels": label} for *row, label in rows])

    train = ids((1, 2, 0), (1, 3, 1), (1, 3, -100))
    labels = find_labels(train)
    found = check_splits(train, {}, ids((1, 2, 0)), kind="single", labels=labels)
    assert [warning.split(",")[0] for warning in found] == [
        "1 texts occur with different labels (2 rows)",
        "1 rows of test (100.0 %) are also in train",
    ]
    with pytest.raises(DataError, match=r"test row 1: labels: label '2'"):
        check_splits(train, {}, ids((9, 2)), kind="single", labels=labels)
    with pytest.raises(DataError, match="labels: the data has no such column"):
        check_splits(read([{"input_ids": [1]}]), {}, None, kind="single", labels=labels)

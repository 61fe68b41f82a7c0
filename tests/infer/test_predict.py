from __future__ import annotations

import numpy as np
import pytest

from bigbatch.data.labels import LabelSet
from bigbatch.errors import DataError
from bigbatch.infer.predict import predict_rows
from bigbatch.protocols import Role
from bigbatch.tasks.classify import Classify

AB = LabelSet(("neg", "pos"))
TEXTS = ["a b c d e f g", "h", "i j", "k l m n", "o p q", "r s t u v w"]


def test_order_and_ids_are_kept(forward, tokenizer):
    task = Classify().with_facts(labels=AB)
    alone = [next(predict_rows(forward, task, tokenizer, [text])) for text in TEXTS]
    rows = [{"id": f"r{index}", "text": text, "label": "unseen"} for index, text in enumerate(TEXTS)]
    found = list(predict_rows(forward, task, tokenizer, rows, window_rows=4, micro_tokens=8))
    assert [row.pop("id") for row in found] == [f"r{index}" for index in range(6)]
    assert found == alone and list(found[0]) == ["label", "probability", "probabilities"]
    assert found[0]["probability"] == max(found[0]["probabilities"].values())
    assert found[0]["probabilities"][found[0]["label"]] == found[0]["probability"]
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1)


def test_no_more_than_a_window_is_read_ahead(forward, tokenizer):
    read = []

    def endless():
        while True:
            read.append(1)
            yield {"text": "a"}

    predictions = predict_rows(forward, Classify().with_facts(labels=AB), tokenizer, endless(), window_rows=5)
    next(predictions)
    assert len(read) == 5


def test_other_kinds(make_forward, tokenizer):
    multi = Classify(kind="multi").with_facts(labels=AB)
    row = next(predict_rows(make_forward(), multi, tokenizer, ["a b"]))
    assert row["labels"] == [name for name, share in row["probabilities"].items() if share > 0.5]
    number = next(predict_rows(make_forward(1), Classify(kind="regression"), tokenizer, ["a b"]))
    assert list(number) == ["value"] and isinstance(number["value"], float)
    two = Classify(kind="regression", labels=("x", "y"))
    assert list(next(predict_rows(make_forward(), two, tokenizer, ["a"]))["value"]) == ["x", "y"]


def test_what_is_not_finite_is_none(forward, tokenizer):
    forward.module.head.data[:] = np.nan
    row = next(predict_rows(forward, Classify().with_facts(labels=AB), tokenizer, ["a"]))
    assert row["probability"] is None and row["probabilities"] == {"neg": None, "pos": None}


@pytest.mark.parametrize(
    "row, what",
    [
        ({"id": 3}, "row 2: data.columns.text: no column for the text"),
        (5, "row 2: found int; expected a text, a dictionary, or a tuple"),
        ({"text": "a\ud800"}, "row 2: text: half a surrogate pair at character 1"),
        ({"text": "a", "pair": ["b"]}, "row 2: pair: expected text, found list"),
    ],
)
def test_a_row_without_text_is_named(forward, tokenizer, row, what):
    with pytest.raises(DataError, match=what):
        list(predict_rows(forward, Classify().with_facts(labels=AB), tokenizer, [{"text": "a"}, row]))


def test_many_bad_rows_are_counted(forward, tokenizer):
    with pytest.raises(DataError, match="and 10 more") as caught:
        list(predict_rows(forward, Classify().with_facts(labels=AB), tokenizer, {"text": [["a"]] * 30}))
    assert len(caught.value.problems) == 21


class Confident(Classify):
    @property
    def roles(self):
        return {**super().roles, "confidence": Role(meaning="how sure the label is", kind="number")}

    def encode(self, row, tokenizer):
        return super().encode({**row, "text": row["text"] * int(row["confidence"])}, tokenizer)


def test_a_role_of_your_own_that_encode_needs_is_named(forward, tokenizer):
    task = Confident().with_facts(labels=AB)
    assert next(predict_rows(forward, task, tokenizer, [{"text": "a", "confidence": 1}]))["label"] in AB.names
    with pytest.raises(DataError, match="the task reads 'confidence'"):
        next(predict_rows(forward, task, tokenizer, ["a"]))


@pytest.mark.parametrize(
    "rows, what",
    [
        (
            lambda: enumerate(TEXTS),
            r"row 1: found a tuple \(int, str\); expected texts .*leave out the index",
        ),
        (lambda: [("a", 1.0)], r"row 1: found a tuple \(str, float\)"),
        (lambda: [("a", "b"), ("a", "pos")], r"row 2: found a tuple \(text, 'pos'\), and 'pos' is a class"),
    ],
)
def test_tuples_of_other_things_than_texts_are_refused(forward, tokenizer, rows, what):
    with pytest.raises(DataError, match=what):
        list(predict_rows(forward, Classify().with_facts(labels=AB), tokenizer, rows()))


def test_columns_by_row_are_read_by_row(forward, tokenizer):
    task = Classify().with_facts(labels=AB)
    plain = list(predict_rows(forward, task, tokenizer, TEXTS))
    by_row = {"text": dict(enumerate(TEXTS, start=7)), "label": dict.fromkeys(range(7, 13), "neg")}
    assert list(predict_rows(forward, task, tokenizer, by_row)) == plain


@pytest.mark.parametrize(
    "columns, what",
    [
        ({"text": {"a", "b"}}, "text: this column is a set"),
        ({"text": {0: "a"}, "pair": {1: "b"}}, "pair: a mapping from other rows"),
        ({"text": {0: "a"}, "pair": ["b"]}, "pair: a list, and column 'text' is a mapping"),
    ],
)
def test_columns_without_order_are_refused(forward, tokenizer, columns, what):
    with pytest.raises(DataError, match=what):
        list(predict_rows(forward, Classify().with_facts(labels=AB), tokenizer, columns))

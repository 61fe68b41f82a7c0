from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.data.labels import LabelSet
from bigbatch.data.sources import read_table
from bigbatch.data.tokens import as_table, token_table
from bigbatch.errors import DataError
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.inputs import encode_texts, inputs_of_rows, tokenised_inputs


def test_ids_segments_and_truncation(tokenizer):
    short, long = encode_texts(["a b", "a b c d e"], None, tokenizer, 5)
    assert short.ids.tolist() == [2, 4, 5, 3] and not short.truncated
    assert long.ids.tolist() == [2, 4, 5, 6, 3] and long.truncated
    assert short.segments.tolist() == [0, 0, 0, 0] and short.ids.dtype == "int32"


@pytest.mark.parametrize("words, truncated", [(2, False), (3, False), (4, True), (9, True)])
def test_truncated_means_that_something_was_cut_off(tokenizer, words, truncated):
    found = encode_texts([" ".join("abcdefghi"[:words])], None, tokenizer, 5)[0]
    assert found.truncated is truncated and len(found.ids) == min(words + 2, 5)


def test_pairs(tokenizer):
    whole, cut = encode_texts(["a b", "a b c d"], ["c", "e f"], tokenizer, 7)
    assert whole.ids.tolist() == [2, 4, 5, 3, 6, 3] and whole.segments.tolist() == [0, 0, 0, 0, 1, 1]
    assert not whole.truncated and cut.truncated and len(cut.ids) == 7


def test_without_limit_and_without_token_types(plain_tokenizer):
    found = encode_texts(["a b c d e"], None, plain_tokenizer, None)[0]
    assert found.ids.tolist() == [4, 5, 6, 7, 8] and found.segments is None and not found.truncated


def test_a_slow_tokenizer_is_asked_twice():
    class Slow:
        def __call__(self, texts, *, truncation=False, max_length=None, verbose=True):
            return {"input_ids": [[ord(letter) for letter in text][:max_length] for text in texts]}

    found = encode_texts(["ab", "abc", "abcd"], None, Slow(), 3)
    assert [each.truncated for each in found] == [False, False, True]


def test_a_text_without_tokens_is_an_error(plain_tokenizer):
    with pytest.raises(DataError, match="'  ' gives no tokens"):
        encode_texts(["a", "  "], None, plain_tokenizer, 5)


def test_rows_of_token_ids_lose_only_their_padding():
    row = {"input_ids": [0, 5, 6], "attention_mask": [0, 1, 1], "token_type_ids": [0, 0, 1]}
    found = tokenised_inputs(row)
    assert found.ids.tolist() == [5, 6] and found.segments.tolist() == [0, 1]
    with pytest.raises(DataError, match="as long as input_ids"):
        tokenised_inputs({"input_ids": [1, 2], "attention_mask": [1]})
    with pytest.raises(DataError, match="gives no tokens"):
        tokenised_inputs({"input_ids": [1, 2], "attention_mask": [0, 0]})


ROWS = [
    {"text": "a b"},
    {"text": "c", "pair": "d"},
    {"text": "e", "pair": ""},
    {"text": "f", "pair": " \u00a0"},
    {"text": "g", "pair": None},
    {"input_ids": [2, 9, 3], "token_type_ids": [0, 1, 1]},
    {"input_ids": [2, 9, 3]},
]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [1, 6, 0, 5, 3]])
def test_a_row_is_read_as_if_it_were_alone(tokenizer, order):
    together = inputs_of_rows([ROWS[number] for number in order], tokenizer, 8)
    for number, found in zip(order, together, strict=True):
        (alone,) = inputs_of_rows([ROWS[number]], tokenizer, 8)
        assert found.ids.tolist() == alone.ids.tolist()
        assert str(found.segments) == str(alone.segments)
    assert inputs_of_rows(ROWS[2:3], tokenizer, 8)[0].ids.tolist() == [2, 8, 3], "no second [SEP]"


@pytest.mark.parametrize("first", range(2))
def test_rows_with_and_without_token_types_fit_together(first):
    rows = [
        {"input_ids": [2, 9, 3], "token_type_ids": [0, 1, 1], "labels": 0},
        {"input_ids": [2, 9, 3], "labels": 1},
    ]
    rows = rows[first:] + rows[:first]
    task = Classify().with_facts(labels=LabelSet(("a", "b")))
    table = read_table(rows, base=Path(), columns={}, roles=task.roles)
    tokens, _ = token_table(table, task=task, tokenizer=None, cache_dir=None, key_parts={})
    wanted = [[0, 1, 1], [0, 0, 0]]
    assert tokens.segments is not None
    assert tokens.segments.reshape(2, 3).tolist() == wanted[first:] + wanted[:first]
    predicted = as_table(task.encode_batch(rows, None, labelled=False))
    assert predicted.segments is not None and predicted.segments.tolist() == tokens.segments.tolist()

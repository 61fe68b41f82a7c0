"""Sequences read from the other strand: against turning the text itself, and whichever way a batch is cut."""

from __future__ import annotations

import numpy as np
import pytest

from bigbatch.data.labels import LabelSet
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, ModelError, RecipeError
from bigbatch.model.letters import made_tokenizer
from bigbatch.samples import TOKENS, UNITS
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.mlm import MaskedLM
from bigbatch.tasks.vocabulary import vocabulary_of
from tests.models import tiny

LETTERS = made_tokenizer("letters")
TEXTS = ["ACGT", "AACNG", "G1TTA-C", "ACGTKMR", "T"]
"""The digit is unknown to the tokenizer; K, M and R each stand for two nucleotides."""
PAIRS = str.maketrans("ACGTKMRY", "TGCAMKYR")
ROWS = np.array([0, 3, 1, 2, 4, 2])
EPOCHS = np.array([0, 0, 1, 0, 2, 5])


def other(text: str) -> str:
    return text[::-1].translate(PAIRS)


def classify(share: float) -> Classify:
    labels = LabelSet(("a", "b"))
    return Classify(reverse_complement=share).with_facts(labels=labels, tokenizer=LETTERS, max_length=32)


def table_of(task, texts=TEXTS):
    return as_table(task.encode_batch([{"text": text, "label": "a"} for text in texts], LETTERS))


def ids(table) -> list[list[int]]:
    stream = table.load()[TOKENS]
    return [
        stream.columns["ids"][stream.offsets[row] : stream.offsets[row + 1]].tolist()
        for row in range(len(stream))
    ]


def test_all_are_the_turned_texts():
    task = classify(1.0)
    seen = task.view(table_of(task), ROWS, EPOCHS)
    assert ids(seen) == LETTERS([other(TEXTS[row]) for row in ROWS])["input_ids"]
    assert seen[UNITS].columns["at"].tolist() == [0] * len(ROWS)


def test_some_by_seed_epoch_and_sample_alone():
    task = classify(0.5)
    table = table_of(task, TEXTS * 40)
    rows, epochs = np.arange(200), np.zeros(200, np.int64)
    whole = ids(task.view(table, rows, epochs))
    forward, back = (LETTERS([turn(text) for text in TEXTS * 40])["input_ids"] for turn in (str, other))
    turned = [each == b != f for each, b, f in zip(whole, back, forward, strict=True)]
    assert all(each in (b, f) for each, b, f in zip(whole, back, forward, strict=True))
    assert 60 < sum(turned) < 130
    for parts in (1, 7):
        cut = [
            ids(task.view(table, piece, np.zeros(len(piece), np.int64)))
            for piece in np.array_split(rows, parts)
        ]
        assert [each for part in cut for each in part] == whole
    assert ids(task.view(table, rows, epochs + 1)) != whole
    assert not classify(0.0).has_view


def test_masks_lie_on_the_strand_that_is_read():
    """With every token masked and shown as it is, targets are what stands there: the turned text's own samples."""
    module = tiny("bert")
    module.resize_token_embeddings(len(LETTERS))
    rates = {"probability": 1.0, "mask_share": 0.0, "random_share": 0.0}
    vocabulary = vocabulary_of(LETTERS, module)
    tasks = [
        MaskedLM(reverse_complement=share, **rates).with_facts(
            vocabulary=vocabulary, tokenizer=LETTERS, max_length=32
        )
        for share in (1.0, 0.0)
    ]
    seen = tasks[0].view(table_of(tasks[0]), ROWS, EPOCHS)
    plain = tasks[1].view(table_of(tasks[1], [other(text) for text in TEXTS]), ROWS, EPOCHS)
    assert ids(seen) == ids(plain)
    for column in ("at", "values", "weights"):
        assert seen[UNITS].columns[column].tolist() == plain[UNITS].columns[column].tolist()
    assert seen[UNITS].offsets.tolist() == plain[UNITS].offsets.tolist()


def test_what_has_no_other_strand_is_refused():
    task = classify(0.5)
    with pytest.raises(DataError, match="a row of two texts has no other strand"):
        task.encode({"text": "AC", "pair": "GT", "label": "a"}, LETTERS)
    bare = task.with_facts(tokenizer=None)
    with pytest.raises(ModelError, match="task.reverse_complement: rows of token ids"):
        bare.view(table_of(task), ROWS, EPOCHS)
    with pytest.raises(RecipeError, match="task.reverse_complement.*expected a share from 0 to 1"):
        Classify(reverse_complement=1.5)
    with pytest.raises(RecipeError, match="whole_word.*no words"):
        MaskedLM(reverse_complement=0.5, whole_word=True)

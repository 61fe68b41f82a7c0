"""Hugging Face's collators, as options of a task."""

from __future__ import annotations

import pytest
import transformers
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    default_data_collator,
)

from bigbatch.errors import UsageError
from bigbatch.recipe.collators import task_options
from tests.models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_padding_says_nothing(tokenizer):
    padding = (None, default_data_collator, DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
               transformers.DefaultDataCollator(), DataCollatorForTokenClassification(tokenizer))  # fmt: skip
    for collator in padding:
        for task in ("classify", "tag", "clm", "match"):
            assert task_options(collator, task) == {}


def test_masks_become_those_of_the_task(tokenizer):
    usual = task_options(DataCollatorForLanguageModeling(tokenizer), "mlm")
    assert usual == {"probability": 0.15, "mask_share": 0.8, "random_share": 0.1, "whole_word": False}
    other = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=0.3, mask_replace_prob=0.5, random_replace_prob=0.25
    )
    expected = {"probability": 0.3, "mask_share": 0.5, "random_share": 0.25, "whole_word": False}
    assert task_options(other, "mlm") == expected
    whole = DataCollatorForLanguageModeling(
        tokenizer, whole_word_mask=True, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    assert task_options(whole, "mlm")["whole_word"] and task_options(whole, "mlm")["mask_share"] == 1.0


def test_what_pads_is_never_predicted(tokenizer):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    assert task_options(collator, "clm") == {"not_predicted": [tokenizer.pad_token_id]}


class Mine(DataCollatorWithPadding):
    """Somebody's own."""


REFUSED = {
    "another head's": (
        lambda t: DataCollatorForLanguageModeling(t),
        "clm",
        r"\(mlm=True\) is for masked.*task clm",
    ),
    "a causal one": (lambda t: DataCollatorForLanguageModeling(t, mlm=False), "mlm", "is for causal"),
    "no masks": (lambda t: DataCollatorWithPadding(t), "mlm", "DataCollatorWithPadding masks nothing"),
    "none at all": (lambda t: None, "mlm", "none masks nothing"),
    "seq2seq": (lambda t: DataCollatorForSeq2Seq(t, label_pad_token_id=0), "seq2seq", "=0 would be"),
    "padding that counts": (
        lambda t: DataCollatorForTokenClassification(t, label_pad_token_id=0),
        "tag",
        "=0 would be",
    ),
    "a function": (lambda t: lambda rows: rows, "classify", r"<lambda> is code that this loop does not call"),
    "a subclass": (lambda t: Mine(t), "classify", "test_collators.Mine is code that this loop does not call"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_with_the_reason(tokenizer, name):
    collator, task, sentence = REFUSED[name]
    with pytest.raises(UsageError, match=sentence):
        task_options(collator(tokenizer), task)

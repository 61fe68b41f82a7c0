from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bigbatch.errors import ModelError
from bigbatch.model.checks import check_model, pad_id
from tests.models import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """45 tokens, pad id 0, 2 special tokens a text, at most 64 tokens."""
    return tiny_tokenizer(tmp_path_factory.mktemp("words"))


def test_the_length_to_use(tokenizer: Any) -> None:
    assert check_model(tiny("bert"), tokenizer, None, padded=True) == 64
    assert check_model(tiny("bert", max_position_embeddings=32), tokenizer, None, padded=True) == 32
    assert check_model(tiny("bert"), tokenizer, 64, padded=True) == 64


@pytest.mark.parametrize(
    ("family", "max_length", "message"),
    [
        ("bert", 65, r"data\.max_length: found 65; the model has positions for at most 64 tokens"),
        ("roberta", 65, r"at most 64 tokens \(66 less 2 that its padding takes\)"),
        ("llama", 65, "at most 64 tokens"),
        ("bert", 2, "adds 2 special tokens, which leaves no room for text"),
    ],
)
def test_lengths_that_do_not_fit(tokenizer: Any, family: str, max_length: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_model(tiny(family), tokenizer, max_length, padded=True)


def test_a_vocabulary_larger_than_the_embedding(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="found 45 tokens, but the model's embedding has 44 rows"):
        check_model(tiny("bert", vocab_size=44), tokenizer, None, padded=True)


def test_a_missing_pad_token(tmp_path: Path) -> None:
    bare: Any = tiny_tokenizer(tmp_path)
    bare.pad_token = None
    model = tiny("gpt2", pad_token_id=None)
    for padded in (True, False):
        with pytest.raises(ModelError, match=r"name one with model\.config\.pad_token_id"):
            check_model(model, bare, None, padded=padded)
    encoder = tiny("bert", pad_token_id=None)
    assert check_model(encoder, bare, None, padded=False) == 64
    with pytest.raises(ModelError, match="pad token"):
        check_model(encoder, bare, None, padded=True)
    model.config.pad_token_id = 100
    with pytest.raises(ModelError, match="found 100; expected an id from 0 to 99"):
        check_model(model, bare, None, padded=True)


def test_the_tokenizers_pad_token_is_given_to_the_model(tokenizer: Any) -> None:
    model = tiny("gpt2", pad_token_id=None)
    assert pad_id(model, tokenizer) == 0
    check_model(model, tokenizer, None, padded=True)
    assert model.config.pad_token_id == 0
    assert pad_id(tiny("roberta"), tokenizer) == 1

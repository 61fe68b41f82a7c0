"""Tokenizers of sequences: every letter once, frames kept, strands turned; what is written is what transformers opens."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from bigbatch.errors import ModelError
from bigbatch.model.letters import complement_ids, made_tokenizer
from bigbatch.model.tokenizer import load_tokenizer
from bigbatch.recipe.learning import ModelSpec


def words(name: str, text: str, **options: str) -> list[str]:
    tokenizer = made_tokenizer(name)
    return tokenizer.convert_ids_to_tokens(tokenizer(text, **options)["input_ids"])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("letters", "MKt v*", "M K T V *"),
        ("letters", "acgU-", "A C G U -"),
        ("letters", "M1", "M <unk>"),
        ("kmers:3", "ACGTTA", "ACG TTA"),
        ("kmers:3", "acgttac", "ACG TTA C"),
        ("kmers:3", "ACNGTTA", "A C N GTT A"),
        ("kmers:2", "AUUA", "AT TA"),
        ("codons", "AUGGCCNNATGA", "ATG GCC <unk> TGA"),
        ("codons", "ATGGC", "ATG G C"),
    ],
)
def test_words(name, text, expected):
    assert words(name, text) == ["<cls>", *expected.split(), "<eos>"]


def test_what_is_written_is_opened_by_transformers(tmp_path):
    for name in ("letters", "codons", "kmers:4"):
        made = made_tokenizer(name)
        made.save_pretrained(tmp_path / name)
        text = "ACGTNNACGTACGGTTA"
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again(text)["input_ids"] == made(text)["input_ids"]
        assert again(text, text)["input_ids"] == made(text, text)["input_ids"]
        assert again.pad_token_id == 1 and again.mask_token_id == 4
    assert load_tokenizer(ModelSpec(tokenizer="kmers:4")).get_vocab() == made.get_vocab()


@pytest.mark.parametrize("name", ["letters", "kmers:1", "kmers:4"])
def test_the_other_strand(name):
    """Turned twice nothing has changed; tokens of the turned text are the turned tokens, where its length divides."""
    tokenizer = made_tokenizer(name)
    other_V = complement_ids(tokenizer.get_vocab())
    nucleotides = np.flatnonzero(other_V >= 0)
    if name != "letters":  # U is read as T there
        assert (other_V[other_V[nucleotides]] == nucleotides).sum() >= len(nucleotides) - 1
    text = "ACGTTGCAAGCTTTGA"
    turned = text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert tokenizer(turned, add_special_tokens=False)["input_ids"] == other_V[ids[::-1]].tolist()
    assert other_V[tokenizer.cls_token_id] == other_V[tokenizer.convert_tokens_to_ids("E")] == -1


def test_other_tokens_have_no_other_strand():
    with pytest.raises(ModelError, match="'AC' is a token, and its reverse complement 'GT' is none"):
        complement_ids({"AC": 0, "AA": 1, "TT": 2})
    with pytest.raises(ModelError, match="expected kmers:1 to kmers:8"):
        made_tokenizer("kmers:9")

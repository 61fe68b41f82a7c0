"""What is said of text that a tokenizer does not know."""

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import bigbatch
from bigbatch.data import unknown
from bigbatch.data.unknown import unknown_note
from bigbatch.errors import DataError
from tests.jobs import events
from tests.models import tiny_folder, tiny_tokenizer

ENGLISH = ["the flight was late", "great crew and a good seat"]
CHINESE = ["房间很大，服务很好", "早餐不好吃，下次不来了"]


def by_bytes(fallback):
    """GPT-2's bytes written as characters, or Llama's `<0xE6>`; nothing but English letters beside them."""
    filler = [f"filler{number}" for number in range(1_000)]
    if fallback:
        words = (
            [f"<0x{byte:02X}>" for byte in range(256)] + [chr(letter) for letter in range(33, 127)] + ["▁"]
        )
    else:
        words = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate(["<s>", *words, *filler])}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=fallback))
    if fallback:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    # As GPT-2 has it: one token has every part.
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<s>", bos_token="<s>", unk_token="<s>"
    )


def ids_of(tokenizer, texts):
    return np.concatenate([np.array(tokenizer(text)["input_ids"], np.int32) for text in texts])


def test_words_of_another_language_are_unknown(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    known = " ".join(word for word in tokenizer.get_vocab() if word.isalpha())
    assert unknown_note("train", ids_of(tokenizer, [known]), tokenizer) is None
    found = unknown_note("train", ids_of(tokenizer, CHINESE), tokenizer)
    assert found is not None and found.startswith(
        "train: 100 % of the tokens are unknown to this tokenizer ([UNK])"
    )
    assert "take a model made for this language" in found


@pytest.mark.parametrize(("strange", "told"), [(0, None), (1, "1 %"), (50, "50 %")])
def test_marks_between_texts_are_no_part_of_the_share(tmp_path, strange, told):
    tokenizer = tiny_tokenizer(tmp_path)
    usual = next(number for word, number in tokenizer.get_vocab().items() if word.isalpha())
    ids = np.array([tokenizer.unk_token_id] * strange + [usual] * (100 - strange), np.int32)
    marks = np.full(500, tokenizer.cls_token_id, np.int32)
    found = unknown_note("test", np.concatenate([marks, ids]), tokenizer)
    assert found is None if told is None else f"test: {told} of the tokens" in (found or "")


@pytest.mark.parametrize("fallback", [False, True])
def test_characters_in_pieces(fallback):
    tokenizer = by_bytes(fallback)
    assert unknown_note("train", ids_of(tokenizer, ENGLISH), tokenizer) is None
    found = unknown_note("train", ids_of(tokenizer, CHINESE), tokenizer)
    assert found is not None and "of the tokens are pieces of characters" in found
    # One character among many: an emoji makes no other language.
    assert unknown_note("train", ids_of(tokenizer, [*ENGLISH * 5, "\N{GRINNING FACE}"]), tokenizer) is None
    # A mark that ends texts and is called unknown, too, is none.
    ended = np.full(100, tokenizer.eos_token_id, np.int32)
    assert unknown_note("train", np.concatenate([ids_of(tokenizer, ENGLISH), ended]), tokenizer) is None


def test_nothing_is_said_without_a_tokenizer_or_tokens(tmp_path):
    assert unknown_note("train", np.zeros(3, np.int32), None) is None
    assert unknown_note("train", np.zeros(0, np.int32), tiny_tokenizer(tmp_path)) is None


def test_counts_are_those_of_the_whole(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 50, 1_000).astype(np.int32)
    monkeypatch.setattr(unknown, "_BLOCK_TOKENS", 64)
    assert (unknown._counts(np.sort(ids)) == np.bincount(ids)).all()


ROWS = [{"text": text, "label": str(number % 2)} for number, text in enumerate(CHINESE * 8)]
KEYS = {"updates": 1, "batch": 8, "plan.packing": "padded", "plan.micro_tokens": 128}


def test_it_is_said_before_the_first_update(tmp_path):
    """Short Chinese texts, a vocabulary of English words."""
    model = str(tiny_folder(tmp_path / "model"))
    run = bigbatch.train(model, ROWS, task="classify", set=KEYS, run_dir=tmp_path / "run", quiet=True)
    told = [event["why"] for event in events(run.path, "note") if event["step"] == 0]
    assert sum("100 % of the tokens are unknown" in why for why in told) == 1


def test_where_nothing_is_left_to_learn_the_error_says_why(tmp_path):
    model = str(tiny_folder(tmp_path / "model", head="masked"))
    rows = [{"text": row["text"]} for row in ROWS]
    with pytest.raises(DataError, match="anything to learn from: 100 % of the tokens are unknown"):
        bigbatch.train(model, rows, task="mlm", set=KEYS, run_dir=tmp_path / "run", quiet=True)

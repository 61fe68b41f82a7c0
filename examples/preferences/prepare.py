"""Writes data/ from the tweets of ../airline-tweets: texts for a small causal model, its tokenizer, and preferences.

The preferences are built, from labels that people gave: the prompt is the airline that a tweet addresses, the chosen
answer what a tweet labelled positive says, the rejected one what a tweet labelled negative says to the same airline.
Each tweet is in one pair at most, and those of the test split are in no file that is trained on.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
TWEETS = HERE.parent / "airline-tweets" / "data"
VOCABULARY = 4096
CONFIG = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": VOCABULARY, "n_positions": 128,
    "n_embd": 128, "n_layer": 4, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
AIRLINES = ("@united", "@virginamerica", "@southwestair", "@americanair", "@usairways", "@jetblue")


def tweets(split: str) -> list[dict[str, str]]:
    """Rows of ../airline-tweets: text and label."""
    path = TWEETS / f"{split}.csv"
    if not path.exists():
        sys.exit(f"{path} is not there: run `python {TWEETS.parent / 'make_data.py'}` first")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def preferences(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Pairs of a positive and a negative tweet that begin with the same airline's name, in the order of a hash."""
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["text"].encode()).digest()):
        airline, _, rest = row["text"].partition(" ")
        if airline.lower() in AIRLINES and rest.strip():
            said[airline.lower(), row["label"]].append(" " + rest.strip())
    return [
        {"prompt": airline, "chosen": chosen, "rejected": rejected}
        for airline in AIRLINES
        for chosen, rejected in zip(said[airline, "positive"], said[airline, "negative"], strict=False)
    ]


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path.relative_to(HERE)}: {len(rows):,} rows")


def write_model(texts: list[str]) -> None:
    """A byte-level tokenizer that has seen the training texts, and the shape of a model without weights."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=VOCABULARY, special_tokens=["<|end|>", "<|pad|>"], show_progress=False
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token="<|end|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=128,
    )
    folder = DATA / "shape"
    fast.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    train, test = tweets("train"), tweets("test")
    lowered = [
        row["text"].replace(row["text"].split(" ")[0], row["text"].split(" ")[0].lower(), 1) for row in train
    ]
    write_lines(DATA / "texts.jsonl", [{"text": text} for text in lowered])
    write_lines(DATA / "train.jsonl", preferences(train))
    write_lines(DATA / "test.jsonl", preferences(test))
    write_model(lowered)

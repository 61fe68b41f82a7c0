"""The README's commands, run as they stand, on twelve dozen sentences and a model of two layers.

The commands are not edited. Only the recipe that `init` wrote is made small, by another one that extends it.
"""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "great",
    "terrible",
    "flight",
    "delayed",
    "crew",
    "friendly",
    "lost",
    "bag",
    "thanks",
    "never",
    "again",
]


def write_rows(path: Path, first: int, count: int) -> None:
    """Sentences whose label follows from a word."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(first, first + count):
            word = WORDS[number % 2]
            rest = [WORDS[2 + (number * step) % 9] for step in range(1, 3 + number % 7)]
            writer.writerow([f"{word} {' '.join(rest)} {number}", ["positive", "negative"][number % 2]])


def write_model(folder: Path) -> None:
    """A BERT of two layers with random weights, and a tokenizer for the words above."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *map(str, range(10))]
    tokenizer = Tokenizer(
        models.WordPiece({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
            num_labels=2,
            pad_token_id=0,
        )
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with the files that the README's commands name."""
    folder = tmp_path_factory.mktemp("desk")
    write_rows(folder / "tweets.csv", 0, 128)
    write_rows(folder / "test.csv", 1000, 24)
    write_rows(folder / "new.csv", 2000, 8)
    write_model(folder / "tiny")
    return folder


def run(command: list[str], desk: Path) -> str:
    """Run in the folder; returns what was printed."""
    done = subprocess.run(command, cwd=desk, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_commands_do_what_the_readme_says(desk):
    marked = [block for block in blocks(ROOT / "README.md") if block.run]
    assert [block.language for block in marked] == ["", "", "python"]
    for block in marked:
        if block.language == "python":
            assert "label" in run([sys.executable, "-c", block.body], desk)
            continue
        for command in block.commands:
            program, *words = shlex.split(command)
            assert program == "bigbatch"
            run([sys.executable, "-c", "from bigbatch.cli import main; main()", *words], desk)
            if words[0] == "init":
                (desk / "recipe.yaml").rename(desk / "written.yaml")
                small = "extends: written.yaml\nmodel: tiny\nbatch: 16\nepochs: 1\n"
                (desk / "recipe.yaml").write_text(small, encoding="utf-8")
    assert json.loads((desk / "runs" / "tweets" / "result.json").read_text())["updates"] >= 7
    assert (desk / "runs" / "tweets" / "report.html").exists()
    predictions = [json.loads(line) for line in (desk / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 8
    assert all(prediction["label"] in ("positive", "negative") for prediction in predictions)

"""The same 64 samples, split three ways, through Hugging Face's Trainer and through bigbatch.

64 x 1, 16 x 4 and 4 x 16 (samples in a micro-batch x accumulation steps), uneven lengths, dropout 0, one update.
What is computed is the same each time, so loss and gradient norm should be, too. Prints a Markdown table.

    python benchmarks/split.py            # both halves
    python benchmarks/split.py --only huggingface
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

SAMPLES = 64
VOCABULARY = 1000
SPLITS = ((64, 1), (16, 4), (4, 16))
LENGTHS = (4, 64)


def make_rows(seed: int = 0) -> list[dict[str, list[int] | int]]:
    """64 tokenised rows, 4 to 64 tokens long, three classes that follow from the tokens."""
    generator = np.random.default_rng(seed)
    rows = []
    for length in generator.integers(LENGTHS[0], LENGTHS[1], endpoint=True, size=SAMPLES):
        ids = [2, *generator.integers(5, VOCABULARY, size=int(length) - 2).tolist(), 3]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(ids[1] % 3)})
    return rows


def make_model() -> BertForSequenceClassification:
    """A small random BERT, always the same one, without dropout."""
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=3,
            pad_token_id=0,
        )
    )


def pad(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Rows as one rectangle, padded on the right: what a collator does."""
    length = max(len(row["input_ids"]) for row in rows)
    return {
        "input_ids": torch.tensor(
            [row["input_ids"] + [0] * (length - len(row["input_ids"])) for row in rows]
        ),
        "attention_mask": torch.tensor(
            [row["attention_mask"] + [0] * (length - len(row["attention_mask"])) for row in rows]
        ),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def huggingface(rows: list[dict], micro: int, accumulation: int) -> tuple[float, float]:
    """Loss and gradient norm that Hugging Face's Trainer logs for the first update."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            logging_steps=1,
            logging_strategy="steps",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            max_grad_norm=1.0,
            learning_rate=5e-5,
        )
        trainer = Trainer(model=make_model(), args=arguments, train_dataset=rows, data_collator=pad)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    first = next(entry for entry in trainer.state.log_history if "grad_norm" in entry)
    return float(first["loss"]), float(first["grad_norm"])


def bigbatch(rows: list[dict], micro: int, accumulation: int) -> tuple[float, float]:
    """Loss and gradient norm of bigbatch's first update, with room for about `micro` samples at once."""
    from bigbatch import start

    mean_tokens = sum(len(row["input_ids"]) for row in rows) / len(rows)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "updates": 1,
            "batch.samples": micro * accumulation,
            "plan.micro_tokens": round(micro * mean_tokens),
            "regularise.dropout": 0.0,
            "optimizer.lr": 5e-5,
        }
        with start(make_model(), rows, set=settings, run_dir=str(Path(folder) / "run")) as run:
            first = next(record for record in run if record.kind == "update")
            return first.loss, first.grad_norm


def table(tool: str, measure: Callable[[list[dict], int, int], tuple[float, float]]) -> Iterable[str]:
    """Rows of the Markdown table for one tool."""
    rows = make_rows()
    for micro, accumulation in SPLITS:
        loss, norm = measure(rows, micro, accumulation)
        yield f"| {tool} | {micro} x {accumulation} | {loss:.6f} | {norm:.6f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["huggingface", "bigbatch"])
    only = parser.parse_args().only
    logging.disable(logging.WARNING)
    print("| | micro-batch x accumulation | loss | gradient norm |\n|---|---|---|---|", flush=True)
    for name, tool, measure in (
        ("huggingface", "Hugging Face Trainer", huggingface),
        ("bigbatch", "bigbatch", bigbatch),
    ):
        if only in (None, name):
            for line in table(tool, measure):
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

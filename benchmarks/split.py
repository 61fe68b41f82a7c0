"""The same 64 samples, split three ways, through Hugging Face's Trainer and through bigbatch.

64 x 1, 16 x 4 and 4 x 16 (samples in a micro-batch x accumulation steps), uneven lengths, dropout 0, one update.
What is computed is the same each time, so loss and gradient norm should be, too. bigbatch counts micro-batches in
tokens: it is given room for that many samples of average length. Prints a Markdown table.

    python benchmarks/split.py                       # both
    python benchmarks/split.py --only huggingface
    python benchmarks/split.py --write               # and put table and picture into the READMEs and docs
    python benchmarks/split.py --save                # and keep the table in benchmarks/results/
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write_between  # noqa: E402

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


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    tool: str
    split: str
    loss: float
    grad_norm: float


HEAD = "| | micro-batch x accumulation | loss | gradient norm |\n|---|---|---|---|"
TOOLS = {"huggingface": ("Hugging Face Trainer", huggingface), "bigbatch": ("bigbatch", bigbatch)}


def line(figure: Figure) -> str:
    """A row of the Markdown table."""
    return f"| {figure.tool} | {figure.split} | {figure.loss:.6f} | {figure.grad_norm:.6f} |"


def svg(figures: Sequence[Figure]) -> str:
    """Bars of the gradient norm, readable on light and dark pages."""
    width, bar, left, scale = 720, 26, 250, 360 / max(figure.grad_norm for figure in figures)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {70 + bar * len(figures)}" role="img" '
        'aria-label="Gradient norm of the first update, by tool and split" font-family="system-ui, sans-serif">',
        "<style>text{fill:#24292f;font-size:14px}.huggingface{fill:#d1803d}.bigbatch{fill:#2f6fbd}"
        "@media(prefers-color-scheme:dark){text{fill:#d7dde3}}</style>",
        '<text x="0" y="18" font-weight="600">Gradient norm of one update: the same 64 samples as '
        "micro-batch x accumulation</text>",
    ]
    for number, figure in enumerate(figures):
        y = 44 + bar * number
        kind = "bigbatch" if figure.tool == "bigbatch" else "huggingface"
        length = figure.grad_norm * scale
        parts += [
            f'<text x="0" y="{y + 13}">{figure.tool}</text>',
            f'<text x="{left - 12}" y="{y + 13}" text-anchor="end">{figure.split}</text>',
            f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="{bar - 9}" rx="2"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 13}">{figure.grad_norm:.4f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def versions(packages: Sequence[str] = ("torch", "transformers", "accelerate", "numpy")) -> str:
    """What the figures were made with."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} missing")
    return ", ".join(found)


def save(figures: Sequence[Figure], command: Sequence[str]) -> Path:
    """Keep the table with its date, versions and command; one file a day."""
    from bigbatch import __version__

    now = datetime.now(UTC)
    path = ROOT / "benchmarks" / "results" / f"{now:%Y-%m-%d}-split.md"
    path.parent.mkdir(exist_ok=True)
    text = [
        "# The same 64 samples, split three ways: loss and gradient norm of the first update",
        "",
        f"- Date: {now:%Y-%m-%d %H:%M} UTC",
        f"- Versions: bigbatch {__version__}, {versions()}",
        f"- Machine: {platform.system()} {platform.machine()}, CPU, {torch.get_num_threads()} threads, fp32",
        f"- Command: `python {' '.join(command)}`",
        "",
        *[HEAD, *map(line, figures)],
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def write(figures: Sequence[Figure]) -> None:
    """Replace the table between the markers in each page, and the picture."""
    table = "\n".join([HEAD, *map(line, figures)])
    for name in ("README.md", "README.zh-CN.md", "docs/from-huggingface.md"):
        write_between(ROOT / name, "split-table", table)
    (ROOT / "docs" / "assets" / "split.svg").write_text(svg(figures), encoding="utf-8")


def main() -> None:
    """Measure, print, and write when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(TOOLS))
    parser.add_argument(
        "--write", action="store_true", help="put table and picture into the READMEs and docs"
    )
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results/")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = make_rows()
    figures = []
    print(HEAD, flush=True)
    for name, (tool, measure) in TOOLS.items():
        if arguments.only in (None, name):
            for micro, accumulation in SPLITS:
                figures.append(Figure(tool, f"{micro} x {accumulation}", *measure(rows, micro, accumulation)))
                print(line(figures[-1]), flush=True)
    if arguments.write:
        write(figures)
    if arguments.save:
        print(f"\n{save(figures, ['benchmarks/split.py', *sys.argv[1:]]).relative_to(ROOT)}")


if __name__ == "__main__":
    main()

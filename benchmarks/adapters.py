"""Adapters against the whole model, on the same rows: quality, memory, size of a checkpoint, time of an update.

Each way is a run of `bigbatch train` on the recipe of examples/airline-tweets, in a process of its own; a way that has
run is not trained again. Times are those of single updates, measured again in one process, way after way in turn, so
that what else the machine does meets all of them alike.

    python examples/airline-tweets/make_data.py
    python benchmarks/adapters.py --save
    python benchmarks/adapters.py --save -- epochs=1 plan.threads=1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EXAMPLE = ROOT / "examples" / "airline-tweets"
WAYS: dict[str, dict[str, Any]] = {
    "whole model": {},
    "lora": {"model.adapter": {"name": "lora"}, "optimizer.lr": 5e-4},
    "lora, lr 2e-3": {"model.adapter": {"name": "lora"}, "optimizer.lr": 2e-3},
}
ROUNDS, SAMPLES = 7, 64


def main() -> None:
    """Train what has not run yet, time updates, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs-adapters"), help="where the runs go")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    asked, changes = parser.parse_args(words[:at]), words[at + 1 :]
    runs = asked.runs.resolve()
    lines = [
        "| way | parameters trained | test accuracy | macro F1 | peak memory | a checkpoint | train minutes |",
        "|---|---|---|---|---|---|---|",
        *(row(name, trained(name, runs, changes)) for name in WAYS),
        "",
        f"Seconds of one update of {SAMPLES} samples, median of {ROUNDS}, in turn; ratio to the whole model's:",
        "",
        *timed(),
    ]
    print("\n".join(lines))
    if asked.save:
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        load = os.getloadavg()[0]
        how = f"{platform.machine()}, Python {platform.python_version()}, load {load:.0f}"
        changed = f"; changed: {' '.join(changes)}" if changes else ""
        text = f"# Adapters, {date}\n\nMiniLM (22.7M parameters) on tweets about airlines; {how}{changed}\n\n"
        (RESULTS / f"{date}-adapters.md").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def trained(name: str, runs: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Result of one way, and what it kept; from its files where it has run."""
    run = runs / name.replace(" ", "-").replace(",", "")
    if not (run / "result.json").exists():
        keys = [f"{key}={json.dumps(value)}" for key, value in WAYS[name].items()]
        words = [*changes, *keys, f"run.dir={run}"]
        command = [sys.executable, "-m", "bigbatch", "train", str(EXAMPLE / "recipe.yaml"), *words]
        subprocess.run(command, check=True)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    newest = sorted((run / "checkpoints").iterdir())[-1]
    weights = sum(path.stat().st_size for path in newest.iterdir())
    return {**result, "checkpoint_bytes": weights, "trained": _trained_parameters(newest)}


def _trained_parameters(checkpoint: Path) -> int:
    """Numbers that AdamW keeps an average of."""
    index = json.loads((checkpoint / "index.json").read_text(encoding="utf-8"))["tensors"]
    total = 0
    for name, entry in index.items():
        size = 1
        for length in entry["shape"]:
            size *= length
        total += size if name.startswith("exp_avg/") else 0
    return total


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    test = found["final"]["test"]
    cells = [
        name,
        f"{found['trained']:,}",
        f"{test['accuracy']:.3f}",
        f"{test['f1_macro']:.3f}",
        f"{found['peak_memory_bytes'] / 2**20:,.0f} MiB",
        f"{found['checkpoint_bytes'] / 1e6:,.1f} MB",
        f"{found['train_seconds'] / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


# ---------------------------------------------------------------- one update at a time


def timed() -> list[str]:
    """A line for each way: seconds of an update, and how they compare."""
    import torch

    torch.set_num_threads(1)
    steps = {"whole model": _ours({}), "lora": _ours(WAYS["lora"]), "PEFT, plain loop": _plain()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begun)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    return [f"- {name}: {value:.2f} s, {value / middle['whole model']:.2f}" for name, value in middle.items()]


def _texts() -> tuple[list[str], list[str]]:
    import csv

    with (EXAMPLE / "data" / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: len(rows) // (SAMPLES * (ROUNDS + 2))]  # the file is sorted by label
    return [row["text"] for row in rows], [row["label"] for row in rows]


def _ours(keys: dict[str, Any]) -> Any:
    """Bigbatch's own update, as a run makes it."""
    import bigbatch

    texts, labels = _texts()
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    usual = {
        "batch": SAMPLES, "updates": 200, "plan.threads": 1, "data.max_length": 128, "baseline": "off",
        "scale.every": "never", "plan.micro_tokens": 1024, "plan.packing": "packed", "batch.allow_repeats": True,
    }  # fmt: skip
    folder = Path("runs-adapters") / f"timed-{os.getpid()}-{len(keys)}"
    run = bigbatch.start(str(EXAMPLE / "data" / "model"), rows, set={**usual, **keys}, run_dir=folder)
    records = iter(run.__enter__())

    def step() -> None:
        for record in records:
            if record.kind == "update":
                return

    return step


def _plain() -> Any:
    """PEFT and AdamW as its documentation shows them: padded batches of 32 in the order of the file."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts, labels = _texts()
    names = sorted(set(labels))
    place = EXAMPLE / "data" / "model"
    tokenizer = AutoTokenizer.from_pretrained(place)
    base = AutoModelForSequenceClassification.from_pretrained(place, num_labels=len(names))
    linear = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
    config = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules=linear)
    model: Any = get_peft_model(base, config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    at = 0

    def step() -> None:
        nonlocal at
        for first in range(at, at + SAMPLES, 32):
            chosen = [number % len(texts) for number in range(first, first + 32)]
            batch = tokenizer(
                [texts[n] for n in chosen], padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            targets = torch.tensor([names.index(labels[n]) for n in chosen])
            (model(**batch, labels=targets).loss / (SAMPLES / 32)).backward()
        optimizer.step()
        optimizer.zero_grad()
        at += SAMPLES

    return step


if __name__ == "__main__":
    main()

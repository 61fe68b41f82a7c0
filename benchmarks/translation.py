"""Translation: BLEU, chrF and time of bigbatch and transformers' `Seq2SeqTrainer`, at equal updates, batch and model.

Each round trains an untrained T5 with each contestant, in turn, each in a process of its own with one thread, on the
same pairs (examples/translation) with the same batch, updates, rate, schedule, clipping, dropout and label smoothing.
Then each writes the same test texts, `predict` against `model.generate` of batches in order, and sacrebleu scores them.
Wall time and CPU time are both kept: on a
shared machine only the latter compares.

    python examples/translation/prepare.py
    python benchmarks/translation.py --updates 150 --rounds 2
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA, RESULTS = ROOT / "examples" / "translation" / "data", ROOT / "benchmarks" / "results"
BATCH, LENGTH, RATE, TEXTS = 96, 64, 2e-3, 300
CONTESTANTS = {
    "bigbatch": "as it comes: its own plan, texts of a length together",
    "trainer": "Seq2SeqTrainer as it comes: random batches, padded to their longest",
    "trainer, by length": "Seq2SeqTrainer with train_sampling_strategy=group_by_length",
}


class Stopwatch:
    """Wall and CPU seconds of this process from here on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __call__(self, what: str) -> dict[str, float]:
        """So far."""
        return {
            f"{what}_seconds": time.perf_counter() - self._wall,
            f"{what}_cpu_seconds": time.process_time() - self._cpu,
        }


def pairs(split: str, most: int | None = None) -> list[dict[str, str]]:
    """The first pairs of a split."""
    with (DATA / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [{"source": row["en"], "target": row["zh"]} for row in csv.DictReader(file)][:most]


def by_bigbatch(updates: int, folder: Path) -> tuple[list[str], dict[str, float]]:
    """The texts that it writes of the test sources, and its times."""
    import bigbatch

    recipe = {
        "model": {"name": str(DATA / "model"), "init": "random"},
        "task": {"name": "seq2seq", "target_max_length": LENGTH},
        "data": {"max_length": LENGTH},
        "batch": BATCH,
        "updates": updates,
        "optimizer": {"name": "adamw", "lr": RATE, "weight_decay": 0.01},
        "schedule": {"name": "cosine", "warmup": "6 %"},
        "loss": {"label_smoothing": 0.1},
        "clip": 1.0,
        "baseline": "off",
        "run": {"dir": str(folder / "run"), "evaluate_every": "never", "checkpoint_every": "never"},
    }
    rows, asked = pairs("train"), [row["source"] for row in pairs("test", TEXTS)]
    watch = Stopwatch()
    run = bigbatch.train(recipe, rows, quiet=True)
    times = {**watch("whole"), "updates_seconds": float((run.result or {})["train_seconds"])}
    watch = Stopwatch()
    found = run.predict([{"source": text} for text in asked])
    return [each["text"] for each in found], {**times, **watch("writing")}


def by_trainer(updates: int, folder: Path, *, grouped: bool) -> tuple[list[str], dict[str, float]]:
    """As `by_bigbatch`."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        set_seed,
    )

    rows, asked = pairs("train"), [row["source"] for row in pairs("test", TEXTS)]
    watch = Stopwatch()
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(DATA / "model")
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(DATA / "model"))

    def encoded(source: Sequence[str], target: Sequence[str] | None = None) -> list[dict[str, Any]]:
        how = {"truncation": True, "max_length": LENGTH}
        found = [{"input_ids": ids} for ids in tokenizer(source, **how)["input_ids"]]
        if target is not None:
            labels = tokenizer(text_target=target, **how)["input_ids"]
            found = [{**row, "labels": ids} for row, ids in zip(found, labels, strict=True)]
        return found

    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(folder), max_steps=updates, per_device_train_batch_size=BATCH,
            learning_rate=RATE, weight_decay=0.01, lr_scheduler_type="cosine",
            warmup_steps=round(0.06 * updates), max_grad_norm=1.0, label_smoothing_factor=0.1, save_strategy="no",
            report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True, dataloader_num_workers=0,
            train_sampling_strategy="group_by_length" if grouped else "random",
        ),
        train_dataset=encoded([row["source"] for row in rows], [row["target"] for row in rows]),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
    )  # fmt: skip
    inner = time.perf_counter()
    trainer.train()
    times = {**watch("whole"), "updates_seconds": time.perf_counter() - inner}
    watch = Stopwatch()
    texts: list[str] = []
    model.eval()
    with torch.inference_mode():
        for first in range(0, len(asked), BATCH):
            batch = tokenizer.pad(encoded(asked[first : first + BATCH]), return_tensors="pt")
            ids = model.generate(**batch, max_new_tokens=LENGTH, num_beams=1, do_sample=False)
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts], {**times, **watch("writing")}


def contest(name: str, updates: int) -> dict[str, float]:
    """One contestant's figures and times."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    wanted = [[row["target"] for row in pairs("test", TEXTS)]]
    with tempfile.TemporaryDirectory() as folder:
        if name == "bigbatch":
            texts, times = by_bigbatch(updates, Path(folder))
        else:
            texts, times = by_trainer(updates, Path(folder), grouped=name != "trainer")
    figures = {
        "bleu": BLEU(tokenize="zh").corpus_score(texts, wanted).score,
        "chrf": CHRF().corpus_score(texts, wanted).score,
    }
    return {**figures, **times}


def in_process(name: str, updates: int) -> dict[str, float]:
    """The same in a process of its own, with one thread."""
    words = [sys.executable, __file__, "--contestant", name, "--updates", str(updates)]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Medians, and ratios of CPU time to bigbatch's within a round."""
    names = ["bleu", "chrf", "updates_seconds", "whole_cpu_seconds", "writing_seconds", "writing_cpu_seconds"]
    lines = [
        "| | "
        + " | ".join(name.replace("_", " ") for name in names)
        + " | CPU, whole: ratio | CPU, writing: ratio |",
        "|---" * (len(names) + 3) + "|",
    ]
    for contestant in CONTESTANTS:
        cells = [f"{statistics.median(one[contestant][name] for one in rounds):.1f}" for name in names]
        for name in ("whole_cpu_seconds", "writing_cpu_seconds"):
            ratios = [one[contestant][name] / one["bigbatch"][name] for one in rounds]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {contestant} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Run and write benchmarks/results/DATE-translation.md."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--updates", type=int, default=150)
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--contestant")
    given = asked.parse_args()
    if given.contestant:
        print(json.dumps(contest(given.contestant, given.updates)))
        return
    rounds = []
    for number in range(given.rounds):
        turns = list(CONTESTANTS)[number % 3 :] + list(CONTESTANTS)[: number % 3]
        rounds.append({name: in_process(name, given.updates) for name in turns})
        print(json.dumps(rounds[-1]), flush=True)
    load = os.getloadavg()[0]
    head = [
        "# Translation: bigbatch and Seq2SeqTrainer",
        "",
        f"`python benchmarks/translation.py --updates {given.updates} --rounds {given.rounds}`; {os.cpu_count()} cores "
        f"shared with other work (load {load:.1f}), one thread each; {given.updates} updates of {BATCH} pairs, "
        f"{TEXTS} test texts, greedy; median over rounds, ratios within a round.",
        "",
        *(f"- {name}: {what}" for name, what in CONTESTANTS.items()),
        "",
    ]
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-translation.md"
    path.write_text("\n".join([*head, *table(rounds), ""]), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

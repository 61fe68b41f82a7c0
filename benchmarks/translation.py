"""Translation: BLEU, chrF, time and memory of bigbatch and transformers' `Seq2SeqTrainer`, at equal updates and batch.

For each seed one small Marian is drawn and written to disk; each contestant starts from those weights, in turn and in a
process of its own with one thread, and trains on the same pairs (sales.py: English to French) with the same number of
updates, batch, rate, schedule, clipping and label smoothing, without dropout. One contestant is given bigbatch's own
order of rows, so that each of its updates sees the same pairs. Then each writes the same test texts greedily, `predict`
against `model.generate` of batches in order, and sacrebleu scores them.

Times are of the whole process but for the making of the rows: libraries are imported in all of them.
Ratios are those within a seed, whose contestants run one behind the other; on a shared machine CPU time compares best.

    python benchmarks/translation.py                          # 3 seeds; benchmarks/results/DATE-translation.*
    python benchmarks/translation.py --seeds 0 --updates 300  # a look
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sales

RESULTS = Path(__file__).resolve().parent / "results"
ROWS, TEXTS, LENGTH, RATE, SMOOTHING, WARMUP = 20_000, 600, 64, 3e-3, 0.1, 0.06
CONTESTANTS = {
    "bigbatch": "as it comes: its own plan",
    "trainer, same batches": "Seq2SeqTrainer, each update on the rows and at the rate that bigbatch's has",
    "trainer": "Seq2SeqTrainer as it comes: random batches, padded to their longest",
    "trainer, by length": "Seq2SeqTrainer with train_sampling_strategy=group_by_length",
}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What all contestants of a seed are given."""

    folder: str
    """Holds model/ (the weights before training) and room for runs."""
    seed: int
    updates: int
    batch: int

    @property
    def model(self) -> Path:
        return Path(self.folder) / "model"


def rows_of(seed: int) -> tuple[list[sales.Pair], list[sales.Pair]]:
    """Pairs to train on and pairs to test with; no English text is in both."""
    test = sales.pairs(TEXTS, 10_000 + seed)
    return sales.pairs(ROWS, seed, frozenset(source for source, _ in test)), test


BEGAN = time.perf_counter()


class Stopwatch:
    """Wall and CPU seconds of this process: from here on, or from when they were so many."""

    def __init__(self, wall: float | None = None, cpu: float | None = None) -> None:
        self._wall = time.perf_counter() if wall is None else wall
        self._cpu = time.process_time() if cpu is None else cpu

    def __call__(self, what: str) -> dict[str, float]:
        """So far."""
        return {
            f"{what}_seconds": time.perf_counter() - self._wall,
            f"{what}_cpu_seconds": time.process_time() - self._cpu,
        }


def peak_bytes() -> int:
    """The most memory this process has had in use, bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def since_start(contest: Contest) -> tuple[Stopwatch, int, tuple[list[sales.Pair], list[sales.Pair]]]:
    """A clock that began with the process, but for the making of the rows; memory so far; the rows.

    Importing libraries is part of a training's time, of whichever contestant, and whenever it imports them.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    found = rows_of(contest.seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Stopwatch(BEGAN + wall, cpu), peak_bytes(), found


def by_bigbatch(contest: Contest) -> tuple[list[str], dict[str, float]]:
    """The texts that it writes of the test sources, and its times."""
    import bigbatch

    recipe = {
        "model": str(contest.model),
        "task": {"name": "seq2seq", "target_max_length": LENGTH},
        "data": {"max_length": LENGTH},
        "batch": contest.batch,
        "updates": contest.updates,
        "optimizer": {"name": "adamw", "lr": RATE, "weight_decay": 0.01},
        "schedule": {"name": "cosine", "warmup": f"{100 * WARMUP:g} %"},
        "loss": {"label_smoothing": SMOOTHING},
        "clip": 1.0,
        "seed": contest.seed,
        "baseline": "off",
        "run": {"evaluate_every": "never", "checkpoint_every": "never"},
    }
    watch, before, (train, test) = since_start(contest)
    rows = [{"source": source, "target": target} for source, target in train]
    at: list[float] = []
    with bigbatch.start(recipe, rows, run_dir=Path(contest.folder) / "run") as run:
        for record in run:
            if record.kind == "update":
                at.append(time.process_time())
    figures = {**watch("whole"), "peak_bytes": peak_bytes(), "peak_growth_bytes": peak_bytes() - before}
    figures["updates_seconds"] = float((run.result or {})["train_seconds"])
    figures["updates_cpu_seconds"] = at[-1] - at[0]
    watch = Stopwatch()
    found = run.predict([{"source": source} for source, _ in test])
    return [each["text"] for each in found], {**figures, **watch("writing")}


def by_trainer(contest: Contest, how: str) -> tuple[list[str], dict[str, float]]:
    """As `by_bigbatch`.

    Args:
        contest: what it is given.
        how: "", "same batches" or "by length".
    """
    import torch
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
    )

    from bigbatch.rules.schedules import learning_rate_factor

    watch, before, (train, test) = since_start(contest)
    tokenizer = AutoTokenizer.from_pretrained(contest.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(contest.model)

    def encoded(source: Sequence[str], target: Sequence[str] | None = None) -> list[dict[str, Any]]:
        how = {"truncation": True, "max_length": LENGTH}
        found = [{"input_ids": ids} for ids in tokenizer(source, **how)["input_ids"]]
        if target is not None:
            labels = tokenizer(text_target=target, **how)["input_ids"]
            found = [{**row, "labels": ids} for row, ids in zip(found, labels, strict=True)]
        return found

    class Ordered(Seq2SeqTrainer):
        """Reads the rows as they lie; the rate of an update is the schedule in its middle, not at its start."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            warmup, total = WARMUP * num_training_steps, num_training_steps
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: learning_rate_factor(
                    "cosine", progress_samples=step + 0.5, total_samples=total, warmup_samples=warmup
                ),
            )
            return self.lr_scheduler

    class Watch(TrainerCallback):
        """CPU seconds of this process behind each update."""

        def on_step_end(self, *args: Any, **options: Any) -> None:
            at.append(time.process_time())

    at: list[float] = []
    kind = Ordered if how == "same batches" else Seq2SeqTrainer
    rows = encoded([source for source, _ in train], [target for _, target in train])
    if how == "same batches":
        rows = [rows[row] for row in order_of(contest)]
    trainer = kind(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(Path(contest.folder) / "trainer"), max_steps=contest.updates,
            per_device_train_batch_size=contest.batch, learning_rate=RATE, weight_decay=0.01, seed=contest.seed,
            lr_scheduler_type="cosine", warmup_steps=round(WARMUP * contest.updates), max_grad_norm=1.0,
            label_smoothing_factor=SMOOTHING, save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no", use_cpu=True, dataloader_num_workers=0,
            train_sampling_strategy="group_by_length" if how == "by length" else "random",
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )  # fmt: skip
    inner = time.perf_counter()
    trainer.train()
    figures = {**watch("whole"), "peak_bytes": peak_bytes(), "peak_growth_bytes": peak_bytes() - before}
    figures["updates_seconds"] = time.perf_counter() - inner
    figures["updates_cpu_seconds"] = at[-1] - at[0]
    watch = Stopwatch()
    texts: list[str] = []
    model.eval()
    with torch.inference_mode():
        for first in range(0, len(test), contest.batch):
            own = encoded([source for source, _ in test[first : first + contest.batch]])
            ids = model.generate(
                **tokenizer.pad(own, return_tensors="pt"), max_new_tokens=LENGTH, num_beams=1, do_sample=False
            )
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts], {**figures, **watch("writing")}


def order_of(contest: Contest) -> list[int]:
    """The rows of bigbatch's updates, one behind the other."""
    from bigbatch.data.order import epoch_order

    wanted, order = contest.batch * contest.updates, list[int]()
    while len(order) < wanted:
        order += epoch_order(contest.seed, len(order) // ROWS, ROWS).tolist()
    return order[:wanted]


def figures_of(name: str, contest: Contest) -> dict[str, float]:
    """One contestant's figures and times."""
    kind, _, how = name.partition(", ")
    texts, times = by_bigbatch(contest) if kind == "bigbatch" else by_trainer(contest, how)
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    wanted = [target for _, target in rows_of(contest.seed)[1]]
    exact = statistics.mean(text == target for text, target in zip(texts, wanted, strict=True))
    return {
        "bleu": BLEU().corpus_score(texts, [wanted]).score,
        "chrf": CHRF().corpus_score(texts, [wanted]).score,
        "exact_percent": 100 * exact,
        **times,
    }


def in_process(name: str, contest: Contest) -> dict[str, float]:
    """The same in a process of its own, with one thread."""
    words = [sys.executable, __file__, "--contestant", name, "--contest", json.dumps(asdict(contest))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: Sequence[float], digits: int) -> str:
    """Median, and the least and most."""
    low, middle, high = (
        f"{each:.{digits}f}" for each in (min(values), statistics.median(values), max(values))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def table(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Medians over the seeds with the least and most; differences and ratios to bigbatch are taken within a seed."""
    lines = [
        "| | BLEU | less bigbatch's | chrF | right to the word, % | training CPU | time | peak memory | writing CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def ratio(name: str, key: str) -> str:
        return spread([seed[name][key] / seed["bigbatch"][key] for seed in seeds], 2)

    for name in seeds[0]:
        bleu, chrf, exact = ([seed[name][key] for seed in seeds] for key in ("bleu", "chrf", "exact_percent"))
        apart = [seed[name]["bleu"] - seed["bigbatch"]["bleu"] for seed in seeds]
        cells = [
            spread(bleu, 2), spread(apart, 2), spread(chrf, 2), spread(exact, 1), ratio(name, "whole_cpu_seconds"),
            ratio(name, "updates_seconds"), ratio(name, "peak_bytes"), ratio(name, "writing_cpu_seconds"),
        ]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def report(asked: argparse.Namespace, seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """The page of results."""
    import torch
    import transformers

    own = seeds[0]["bigbatch"]
    return "\n".join(
        [
            "# Translation: bigbatch and Seq2SeqTrainer",
            "",
            f"`python benchmarks/translation.py --updates {asked.updates} --batch {asked.batch}`; seeds "
            f"{', '.join(map(str, asked.seeds))}; torch {torch.__version__}, transformers {transformers.__version__}, "
            f"Python {platform.python_version()}; {os.cpu_count()} cores shared with other work (load "
            f"{os.getloadavg()[0]:.1f}), one thread each. {ROWS:,} pairs of sales.py, {TEXTS} others to test with, "
            "a Marian of two and two blocks from nothing, greedy.",
            "",
            f"Median over the seeds (least to most); ratios to bigbatch within a seed. bigbatch itself, seed "
            f"{asked.seeds[0]}: {own['whole_cpu_seconds']:.0f} s of CPU, {own['updates_seconds']:.0f} s of updates, "
            f"{own['peak_bytes'] / 2**20:.0f} MiB.",
            "",
            *(f"- {name}: {what}" for name, what in CONTESTANTS.items() if name in seeds[0]),
            "",
            *table(seeds),
            "",
        ]
    )


def main() -> None:
    """Run and write benchmarks/results/DATE-translation.md and .json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--contest", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contestant:
        print(json.dumps(figures_of(asked.contestant, Contest(**json.loads(asked.contest)))))
        return
    seeds = []
    for number, seed in enumerate(asked.seeds):
        found = {}
        turn = number % len(asked.contestants)
        for name in asked.contestants[turn:] + asked.contestants[:turn]:
            with tempfile.TemporaryDirectory() as folder:
                sales.write_model(Path(folder) / "model", rows_of(seed)[0], seed)
                contest = Contest(folder=folder, seed=seed, updates=asked.updates, batch=asked.batch)
                found[name] = in_process(name, contest)
            print(seed, name, json.dumps(found[name]), flush=True)
        seeds.append({name: found[name] for name in asked.contestants})
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-translation.md"
    path.write_text(report(asked, seeds), encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(dict(zip(asked.seeds, seeds, strict=True)), indent=1))
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

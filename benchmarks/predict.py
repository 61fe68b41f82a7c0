"""Speed of prediction on a CPU: `predict` against plain loops, and where its time goes.

The contestants take turns in one process, each with the same rows from texts to probabilities. Wall time and CPU
time are both kept: on a shared machine only the latter compares. A run is made first, of two updates: weights do not
matter here.

    python benchmarks/predict.py --model FOLDER --data test.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from benchmarks.start import spread  # noqa: E402
from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

from bigbatch import api  # noqa: E402
from bigbatch.infer.load import Loaded, open_model  # noqa: E402
from bigbatch.infer.predict import predict_rows  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
Contestant = Callable[[], list[dict[str, float]]]


def plain_loop(folder: Path, texts: Sequence[str], max_length: int, rows: int, by_length: bool) -> Contestant:
    """What most people write: batches padded to their longest, no gradient."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]

    def tokens(chosen: Iterable[int], **options: Any) -> Any:
        return tokenizer(
            [texts[index] for index in chosen], truncation=True, max_length=max_length, **options
        )

    def contest() -> list[dict[str, float]]:
        order = list(range(len(texts)))
        if by_length:
            lengths = [len(ids) for ids in tokens(order)["input_ids"]]
            order.sort(key=lengths.__getitem__, reverse=True)
        found: list[dict[str, float]] = [{}] * len(texts)
        with torch.no_grad():
            for first in range(0, len(order), rows):
                chosen = order[first : first + rows]
                logits = model(**tokens(chosen, padding=True, return_tensors="pt")).logits
                for index, own in zip(chosen, logits.softmax(-1).tolist(), strict=True):
                    found[index] = dict(zip(names, own, strict=True))
        return found

    return contest


def ours(run: Path, texts: Sequence[str], change: Callable[[Any], None] = lambda _: None) -> Contestant:
    """`bigbatch.predict` with the model opened once; `change` takes something away from it."""
    opened: Loaded = open_model(run, metrics=False)
    change(opened.forward)

    def contest() -> list[dict[str, float]]:
        found = predict_rows(
            opened.forward, opened.task, opened.tokenizer, texts, micro_tokens=opened.micro_tokens
        )
        return [row["probabilities"] for row in found]

    return contest


def without_onednn(forward: Any) -> None:
    """Torch's own matrix products."""
    forward._by_onednn = False


def padded(forward: Any) -> None:
    """Sorted by length and padded, the whole last block."""
    forward._narrow = None


def measured(
    contestants: dict[str, Contestant], rounds: int
) -> Iterator[dict[str, list[tuple[float, float]]]]:
    """(wall, CPU) seconds of the rounds so far, the contestants taking turns, after one that wakes everything up."""
    reference: list[dict[str, float]] = []
    for name, contest in contestants.items():
        found = contest()
        reference = reference or found
        gaps = [abs(a[key] - b[key]) for a, b in zip(found, reference, strict=True) for key in a]
        assert max(gaps) < 1e-5, f"{name}: other predictions, by {max(gaps):g}"
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, contest in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            contest()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        print(
            f"round {number + 1} of {rounds}", {name: each[-1] for name, each in seconds.items()}, flush=True
        )
        yield seconds


def shares(contest: Contestant) -> list[tuple[str, float]]:
    """Where one pass spends its time inside torch: the costliest operations. By the wall clock: torch's profiler knows
    no other, so beside other work these are rough.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        contest()
    events = sorted(seen.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    inside = sum(event.self_cpu_time_total for event in events)
    return [(event.key, event.self_cpu_time_total / inside) for event in events[:8]]


def table(seconds: dict[str, list[tuple[float, float]]], rows: int) -> list[str]:
    """Markdown: rows per second, and how many times as fast as the plain loops, round by round."""
    names = list(seconds)
    lines = [
        "| | rows a CPU second | wall seconds | CPU seconds | "
        + " | ".join(f"CPU, of {name}" for name in names[:3])
        + " |",
        "|---" * 7 + "|",
    ]
    for name, own in seconds.items():
        ratios = [
            spread([theirs[1] / mine[1] for theirs, mine in zip(seconds[each], own, strict=True)])
            for each in names[:3]
        ]
        walls, cpus = [wall for wall, _ in own], [cpu for _, cpu in own]
        lines.append(
            f"| {name} | {rows / statistics.median(cpus):,.0f} | {spread(walls)} | {spread(cpus)} | "
            + " | ".join(ratios)
            + " |"
        )
    return lines


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a pretrained encoder")
    parser.add_argument("--data", type=Path, required=True, help="CSV with `text` and `label`")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="tweets")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    csv.field_size_limit(2**31 - 1)
    with arguments.data.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)][: arguments.rows]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "recipe.yaml"
        path.write_text(
            "task: classify\nbatch: 16\nupdates: 2\nbaseline: off\n"
            f"data: {{validation: 0.1, max_length: {arguments.max_length}}}\n"
        )
        named = {
            "model": arguments.model, "data.train": str(arguments.data.absolute()),
            "run.dir": str(Path(scratch) / "run"), "plan.threads": arguments.threads,
        }  # fmt: skip
        run = api.train(path, set=named, quiet=True).path
        loop = (run / "model", texts, arguments.max_length)
        contestants = {
            "loop of 32, file order": plain_loop(*loop, 32, False),
            "loop of 64, file order": plain_loop(*loop, 64, False),
            "loop of 32, by length": plain_loop(*loop, 32, True),
            "bigbatch": ours(run, texts),
            "bigbatch, torch's products": ours(run, texts, without_onednn),
            "bigbatch, padded": ours(run, texts, padded),
        }
        profiles: dict[str, list[tuple[str, float]]] = {}
        kept = arguments.out / f"{datetime.now(UTC):%Y-%m-%d}-predict-{arguments.name}.md"
        for seconds in measured(contestants, arguments.rounds):
            write(kept, arguments, len(texts), seconds, profiles)
        profiles = {name: shares(contestants[name]) for name in ("loop of 32, by length", "bigbatch")}
        write(kept, arguments, len(texts), seconds, profiles)
    print(kept.read_text(encoding="utf-8"))


def write(
    kept: Path,
    arguments: argparse.Namespace,
    rows: int,
    seconds: dict[str, list[tuple[float, float]]],
    profiles: dict[str, list[tuple[str, float]]],
) -> None:
    """The rounds so far, and where the time goes once that is known."""
    rounds = len(next(iter(seconds.values())))
    lines = [
        f"# Prediction: {arguments.name}",
        "",
        f"{rows} rows of {arguments.data.name}, at most {arguments.max_length} tokens; {arguments.threads} thread(s); "
        f"torch {torch.__version__}; {rounds} rounds in turns: median (range); load {os.getloadavg()[0]:.1f} when they "
        "ended. `python benchmarks/predict.py` makes it.",
        "",
        *table(seconds, rows),
    ]
    for name, found in profiles.items():
        lines += [
            "",
            f"## Where {name} spends its time in torch (wall clock)",
            "",
            "| operation | share |",
            "|---|---|",
        ]
        lines += [f"| {key} | {100 * share:.1f} % |" for key, share in found]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

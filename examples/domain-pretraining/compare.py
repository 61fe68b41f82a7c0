"""Does pretraining on the tweets' own text help to classify them? Same fine-tuning with and without, one table.

Runs recipe.yaml (masked words of the training rows, then their labels), and the labels alone, with each seed; the first
stage is kept from seed to seed. Whatever comes out is printed; nothing here fails when it did not help.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNS = HERE.parents[1] / "runs" / "domain-pretraining"
FIGURES = {"accuracy": "accuracy", "macro F1": "f1_macro"}
AS_IT_IS, PRETRAINED = "as it is", "pretrained on the tweets"


def train(recipe: str, folder: Path, *settings: str) -> dict:
    """Train a recipe into a folder, or find it done; returns its result.json."""
    print(f"\n== bigbatch train {recipe} {' '.join(settings)}", flush=True)
    bigbatch = (sys.executable, "-P", "-m", "bigbatch")
    code = subprocess.run([*bigbatch, "train", str(HERE / recipe), f"run.dir={folder}", *settings]).returncode
    if code:
        sys.exit(code)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Mean test figures of both starts over the seeds, and how often pretraining was better."""
    seeds = len(results[AS_IT_IS])
    lines = [f"{'test set':<12}{AS_IT_IS:>12}{PRETRAINED:>26}{'difference':>18}{'better in':>12}"]
    for name, key in FIGURES.items():
        plain, pretrained = ([run[key] for run in results[arm]] for arm in (AS_IT_IS, PRETRAINED))
        points = [100 * (after - before) for before, after in zip(plain, pretrained, strict=True)]
        better = f"{sum(each > 0 for each in points)} of {seeds}"
        lines.append(
            f"{name:<12}{statistics.mean(plain):>12.4f}{statistics.mean(pretrained):>26.4f}"
            f"{statistics.mean(points):>+11.1f} points{better:>12}"
        )
    return lines


def verdict(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The table in one sentence, no stronger than it is."""
    pairs = [
        [
            after[key] - before[key]
            for before, after in zip(results[AS_IT_IS], results[PRETRAINED], strict=True)
        ]
        for key in FIGURES.values()
    ]
    seeds = len(pairs[0])
    if all(each > 0 for points in pairs for each in points):
        found = "It helped, on both figures with every seed."
    elif all(each < 0 for points in pairs for each in points):
        found = "It did not help: both figures were worse with every seed."
    else:
        found = "It cannot be told: the seeds or the figures disagree."
    return found + (" One seed is a weak claim." if seeds == 1 else f" ({seeds} seeds.)")


def main() -> int:
    """Data, both stages and the second alone with each seed, table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="fine-tunings of each kind (default 1)")
    parser.add_argument("settings", nargs="*", help="key=value, handed to every bigbatch train")
    asked = parser.parse_args()
    started = time.perf_counter()
    data = HERE.parent / "airline-tweets" / "make_data.py"
    code = subprocess.run([sys.executable, str(data)]).returncode
    if code:
        return code
    results: dict[str, list[dict[str, float]]] = {AS_IT_IS: [], PRETRAINED: []}
    for seed in range(asked.seeds):
        plain = train("finetune.yaml", RUNS / f"plain-{seed}", f"seed={seed}", *asked.settings)
        both = train("recipe.yaml", RUNS / "stages", f"stages.classify.seed={seed}", *asked.settings)
        results[AS_IT_IS].append(plain["final"]["test"])
        results[PRETRAINED].append(both["final"]["test"])
    before = both["stages"][0]
    words = before["final"]["validation"]
    print(
        f"\n== Masked words of held-out tweets: perplexity {words['perplexity']:.1f}, "
        f"accuracy {words['accuracy']:.3f}, after {before['updates']} updates",
        *table(results),
        verdict(results),
        f"It took {(time.perf_counter() - started) / 60:.1f} minutes.",
        sep="\n",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

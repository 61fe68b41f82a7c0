"""Pretraining on a domain's text, then few labels, against labels alone: for as many updates, and as much computing.

For each seed rows with labels and rows without are drawn, and every training ends with the same test rows:

    alone 24      the task on its labels, 24 updates
    stages 24     `stages: [{task: mlm}, {task: classify}]`: the text without labels first, then as alone 24
    alone A       the task alone, for as many updates as multiply as much as both stages did
    stages A      the same first stage (it is kept), then as alone A

The model is the first three of MiniLM's six blocks, so that one core is enough. A training that has finished is not
done again: an interrupted table goes on.

    python benchmarks/stages.py                       # both data sets, 3 seeds, one table
    python benchmarks/stages.py --data tweets --save  # one of them, and benchmarks/results/DATE-stages.md
"""

from __future__ import annotations

import argparse
import csv
import platform
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import corpora

HERE = Path(__file__).resolve().parent
RUNS = HERE / ".data" / "stages"
UNLABELLED, LABELLED, TEST = 1024, 192, 512
PRETRAIN_UPDATES, TASK_UPDATES, BATCH = 32, 24, 32
BLOCKS = 3
MAX_LENGTH = {"tweets": None, "newsgroups": 48}
BLOCK_WEIGHTS, HEAD_WEIGHTS = BLOCKS * 1_774_464, 30_522 * 384 + 384 * 384
"""Of MiniLM's matrices in one block; of the head that names a hidden word, which reads the hidden ones alone."""
HIDDEN_SHARE = 0.15
ARMS = ("alone 24", "stages 24", "alone A", "stages A")
GROUPS = ("comp.graphics", "rec.sport.hockey", "sci.space", "talk.politics.mideast")
"""Of the twenty newsgroups."""


def main() -> None:
    """Train what has not run yet, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["tweets", "newsgroups"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    asked = parser.parse_args()
    lines = list(table({name: [seed_of(name, seed) for seed in asked.seeds] for name in asked.data}))
    print("\n".join(lines))
    if asked.save:
        now = datetime.now(UTC)
        how = (
            f"{platform.machine()}, Python {platform.python_version()}, `python benchmarks/stages.py --save`"
        )
        path = HERE / "results" / f"{now:%Y-%m-%d}-stages.md"
        path.write_text("\n".join([f"# Stages, {now:%Y-%m-%d}", "", how, "", *lines, ""]), encoding="utf-8")


def seed_of(name: str, seed: int) -> dict[str, Mapping[str, Any]]:
    """Arm -> figures of one seed."""
    folder = RUNS / f"{name}-{seed}"
    draw(name, seed, folder)
    found: dict[str, Mapping[str, Any]] = {}
    updates = TASK_UPDATES
    for level in (str(TASK_UPDATES), "A"):
        found[f"alone {level}"] = trained(folder, seed, updates, alone=True)
        found[f"stages {level}"] = trained(folder, seed, updates)
        updates = same_cost(found[f"stages {level}"])
    return found


def trained(folder: Path, seed: int, updates: int, *, alone: bool = False) -> Mapping[str, Any]:
    """The result of one training, done before or now, with its test figures.

    Args:
        folder: of the rows and the runs of a seed.
        seed: of everything that is random.
        updates: of the task.
        alone: whether without the stage before.
    """
    import bigbatch

    recipe = recipe_of(folder, seed)
    recipe["stages"][1]["updates"] = updates
    if alone:
        task = recipe.pop("stages")[1]
        recipe |= {**task, "data": recipe["data"] | task["data"]}
        recipe["run"]["dir"] = str(folder / f"alone-{updates}")
    run = bigbatch.train(recipe, quiet=True)
    assert run.result is not None
    figures = {**run.result, **run.result["final"]["test"]}
    what = "alone" if alone else "stages"
    print(
        folder.name,
        what,
        updates,
        f"accuracy {figures['accuracy']:.3f} f1 {figures['f1_macro']:.3f}",
        flush=True,
    )
    return figures


def recipe_of(folder: Path, seed: int) -> dict[str, Any]:
    """Both stages."""
    return {
        "model": {"name": str(corpora.TWEETS / "data" / "model"), "config": {"num_hidden_layers": BLOCKS}},
        "data": {"max_length": MAX_LENGTH[folder.name.partition("-")[0]]},
        "batch": BATCH,
        "optimizer": {"name": "adamw", "lr": 5e-4},
        "schedule": {"name": "linear", "warmup": "10 %"},
        "seed": seed,
        "baseline": "off",
        "plan": {"micro_tokens": 1024, "threads": 1},
        "run": {"dir": str(folder / "stages"), "evaluate_every": "end"},
        "stages": [
            {
                "task": {"name": "mlm", "probability": HIDDEN_SHARE},
                "updates": PRETRAIN_UPDATES,
                "data": {"train": str(folder / "unlabelled.csv")},
            },
            {
                "task": "classify",
                "updates": TASK_UPDATES,
                "data": {"train": str(folder / "labelled.csv"), "test": str(folder / "test.csv")},
            },
        ],
    }


def same_cost(result: Mapping[str, Any]) -> int:
    """Updates of the task alone that multiply as much as both stages did."""
    pretraining, task = result["stages"]
    each = task["tokens"] * BLOCK_WEIGHTS
    both = each + pretraining["tokens"] * (BLOCK_WEIGHTS + HIDDEN_SHARE * HEAD_WEIGHTS)
    return round(result["updates"] * both / each)


def draw(name: str, seed: int, folder: Path) -> None:
    """Rows of this seed: no row is in two of the files, and no test row is read by either stage."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = corpora.ready(name)
    source = (
        corpora.TWEETS / "data" / "train.csv" if name == "tweets" else recipe.parent / ".data" / f"{name}.csv"
    )
    with source.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    if name == "newsgroups":
        rows = [row for row in rows if row[1] in GROUPS]
    drawn = iter(random.Random(f"{name} {seed}").sample(rows, UNLABELLED + LABELLED + TEST))
    for part, count in (("unlabelled", UNLABELLED), ("labelled", LABELLED), ("test", TEST)):
        path = folder / f"{part}.csv"
        if not path.exists():
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *(next(drawn) for _ in range(count))])
        else:
            drawn = iter(list(drawn)[count:])


def table(found: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]]) -> Iterator[str]:
    """Mean over the seeds, and each of them."""
    yield "| data | arm | task updates | accuracy | macro F1 | macro F1 of each seed |"
    yield "|---|---|---|---|---|---|"
    for name, seeds in found.items():
        for arm in ARMS:
            f1 = [seed[arm]["f1_macro"] for seed in seeds]
            accuracy = statistics.mean(seed[arm]["accuracy"] for seed in seeds)
            updates = "/".join(dict.fromkeys(str(seed[arm]["updates"]) for seed in seeds))
            each = ", ".join(f"{value:.3f}" for value in f1)
            yield f"| {name} | {arm} | {updates} | {accuracy:.3f} | {statistics.mean(f1):.3f} | {each} |"


if __name__ == "__main__":
    main()

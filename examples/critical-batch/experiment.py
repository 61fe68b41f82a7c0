"""The experiment of docs/experiments/critical-batch.md: tuned at one batch, carried to others, ramps, and a rescue.

    python prepare.py                                  # once: the data
    python experiment.py tune --parallel 14            # then look at tune.csv and put the best rates below
    python experiment.py scale rescue ramp noise --parallel 14
    python experiment.py tables                        # of what is finished, as Markdown

Every study is a `bigbatch sweep` or `bigbatch scale` in sweeps/; the same command goes on where it stopped. On one H200
all of it takes about ten minutes; on 2 cores it is a matter of days.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
SWEEPS = HERE / "sweeps"
BEST = {
    ("tweets", "adamw"): "2.5e-4",
    ("tweets", "lamb"): "5e-3",
    ("r8", "adamw"): "1e-3",
    ("r8", "lamb"): "1e-2",
}
"""Learning rate at the base batch (64 tweets, 32 news), from the stage `tune`."""
TARGET = {"tweets": "f1_macro=.77", "r8": "f1_macro=.8"}
BATCHES = {"tweets": "16,32,64,128,256,512,1024", "r8": "8,32,128,512,2048"}
SHORT = ["plan.packing=padded", "plan.compile=off", "scale.every=never"]
"""Many short runs at a time on one device: nothing is tried that costs longer than it saves."""
TWO_EPOCHS = ["epochs=2", "schedule=linear", "run.evaluate_every=0.1 epochs"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One sweep or scale."""

    name: str
    recipe: str
    words: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    batches: str = ""
    """Not empty: a `scale` over these."""
    seeds: str = "0,1,2"

    def command(self, parallel: int, budget: str | None) -> list[str]:
        """The words that a person would type."""
        words = [
            sys.executable,
            "-m",
            "bigbatch",
            "scale" if self.batches else "sweep",
            f"{self.recipe}.yaml",
        ]
        words += [*SHORT, *self.words, "--name", self.name, "--parallel", str(parallel), "--drop-weights"]
        words += ["--budget", budget] if budget else []
        if self.batches:
            return [
                *words, "--batches", self.batches, "--target", TARGET[self.recipe], "--seeds", self.seeds,
                "--every", "0.1 epochs",
            ]  # fmt: skip
        return [
            *words,
            *(word for axis in self.over for word in ("--over", axis)),
            "--over",
            f"seed={self.seeds}",
        ]


def optimizer(recipe: str, name: str, rule: str = "sqrt") -> list[str]:
    """The best rate at the base batch, and the rule that carries it."""
    return [f"optimizer.name={name}", f"optimizer.lr={BEST[recipe, name]}", f"optimizer.lr_rule={rule}"]


def rates(name: str, *values: str) -> list[str]:
    """An optimiser at several rates."""
    return [f"optimizer.name={name}", f"optimizer.lr={','.join(values)}"]


def tuning(recipe: str, name: str, *values: str) -> Study:
    """Two epochs (eight of the small data) at the base batch, constant rate behind the warm-up."""
    epochs = {"tweets": "1.5", "r8": "12"}[recipe]
    named, over = rates(name, *values)
    return Study(
        name=f"tune-{recipe}-{name}",
        recipe=recipe,
        words=[named, f"epochs={epochs}"],
        over=[over],
        seeds="0,1",
    )


def rescue(name: str, *words: str) -> Study:
    """Three epochs of 1,024 tweets."""
    given = ["epochs=3", "schedule=linear", "batch.samples=1024", "optimizer.lr_rule=none", *words]
    return Study(name=f"rescue-{name}", recipe="tweets", words=given, over=["optimizer.weight_decay=0.01"])


def ramp(name: str, *words: str) -> Study:
    """Two epochs of tweets under a linear schedule."""
    return Study(
        name=f"ramp-{name}",
        recipe="tweets",
        words=[*TWO_EPOCHS, *words],
        over=["optimizer.weight_decay=0.01"],
    )


def grown(by: str, first: int = 64, last: int = 1024) -> str:
    """A ramp as a word of the command line."""
    return f"batch={{samples: {last}, ramp: {{from: {first}, by: {by}}}}}"


FIXED = "batch.samples={batch}"
STAGES: dict[str, list[Study]] = {
    "tune": [
        tuning("tweets", "adamw", "1e-4", "2.5e-4", "5e-4"),
        tuning("tweets", "lamb", "1e-3", "2.5e-3", "5e-3", "1e-2"),
        tuning("r8", "adamw", "5e-4", "1e-3", "2e-3"),
        tuning("r8", "lamb", "2.5e-3", "5e-3", "1e-2", "2e-2"),
    ],
    "scale": [
        Study(
            name=f"{recipe}-{name}-{rule}",
            recipe=recipe,
            batches=BATCHES[recipe],
            words=[*optimizer(recipe, name, rule), f"epochs={limit}"],
        )
        for recipe, name, rule, limit in (
            ("tweets", "adamw", "sqrt", 4),
            ("tweets", "adamw", "linear", 4),
            ("tweets", "lamb", "sqrt", 4),
            ("r8", "adamw", "sqrt", 30),
            ("r8", "adamw", "linear", 30),
            ("r8", "lamb", "sqrt", 30),
        )
    ],
    "rescue": [
        rescue("known", "optimizer.lr=1.5e-3", "schedule.warmup=6 %"),
        rescue("warmup", "optimizer.lr=1.5e-3", "schedule.warmup=40 %"),
        rescue("sqrt", "optimizer.lr=1e-3", "schedule.warmup=6 %"),
        rescue("small", "optimizer.lr=5e-4", "schedule.warmup=6 %"),
        rescue("lamb", "optimizer.name=lamb", "optimizer.lr=1e-2", "schedule.warmup=6 %"),
        rescue("half-life", "optimizer.lr=1e-3", "optimizer.betas=[0.9, 0.98]", "schedule.warmup=6 %"),
        rescue(
            "ramp",
            "batch={samples: 1024, ramp: {from: 64, by: table, table: {10 %: 256, 30 %: 1024}}}",
            "optimizer.lr=2.5e-4",
            "optimizer.lr_rule=sqrt",
            "schedule.warmup=6 %",
        ),
    ],
    "ramp": [
        Study(
            name="ramp-fixed-64", recipe="tweets", words=[*TWO_EPOCHS, "batch.samples=64"],
            over=["optimizer.lr=1.25e-4,2.5e-4,5e-4"],
        ),
        Study(
            name="ramp-fixed-256", recipe="tweets", words=[*TWO_EPOCHS, "batch.samples=256"],
            over=["optimizer.lr=1.25e-4,2.5e-4,5e-4"],
        ),
        Study(
            name="ramp-fixed-1024", recipe="tweets", words=[*TWO_EPOCHS, "batch.samples=1024"],
            over=["optimizer.lr=1.25e-4,2.5e-4"],
        ),
        ramp("schedule", grown("schedule")),
        ramp("noise", grown("noise"), "scale.every=2 updates"),
        ramp("table", "batch={samples: 1024, ramp: {from: 64, by: table, table: {12 %: 256, 35 %: 1024}}}"),
    ],
    "noise": [
        Study(
            name="noise-tweets", recipe="tweets", over=["batch.samples=64,256"],
            words=["epochs=2", "scale.every=2 updates", *optimizer("tweets", "adamw")],
        ),
        Study(
            name="noise-r8", recipe="r8", over=["batch.samples=32,128"],
            words=["epochs=12", "scale.every=4 updates", *optimizer("r8", "adamw")],
        ),
    ],
}  # fmt: skip


def run(stages: list[str], parallel: int, budget: str | None, extra: list[str]) -> int:
    """All studies of the stages at once; they share `parallel` processes."""
    studies = [study for stage in stages for study in STAGES[stage]]
    share, more = divmod(max(parallel, len(studies)), len(studies))
    running = []
    for number, study in enumerate(studies):
        command = study.command(share + (number < more), budget)
        at = next(place for place, word in enumerate(command) if word == "--name")
        command[at:at] = extra
        with (SWEEPS / f"{study.name}.log").open("w") as log:
            running.append(subprocess.Popen(command, cwd=HERE, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in running]
    for study, code in zip(studies, codes, strict=True):
        print(
            f"{study.name}: {'done' if code == 0 else f'exit code {code}, see sweeps/{study.name}.log'}",
            flush=True,
        )
    return max(codes)


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and range."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    return f"{statistics.mean(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def tables(stages: list[str]) -> None:
    """Markdown of every study that has results: a row for each point, over its seeds."""
    for study in (study for stage in stages for study in STAGES[stage]):
        path = SWEEPS / study.name / "results.csv"
        if not path.exists():
            continue
        rows = list(csv.DictReader(path.open()))
        keys = [key for key in rows[0] if key.startswith(("batch.", "optimizer.lr"))]
        groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
        for row in rows:
            groups[tuple(row[key] for key in keys)].append(row)
        wanted = ("updates", "samples", "validation.f1_macro", "test.loss", "test.f1_macro", "test.accuracy")
        print(f"\n## {study.name}\n\n| {' | '.join((*keys, *wanted, 'ended'))} |")
        print("|" + "---|" * (len(keys) + len(wanted) + 1))
        for key, group in groups.items():
            cells = [
                spread(
                    [float(row[name]) for row in group if row.get(name)],
                    0 if name in ("updates", "samples") else 3,
                )
                for name in wanted
            ]
            ended = ", ".join(sorted({row["exit_reason"][:60] for row in group}))
            print(f"| {' | '.join((*key, *cells, ended))} |")
        for found in sorted((SWEEPS / study.name / "runs").glob("*/result.json")):
            noise = json.loads(found.read_text()).get("noise_scale", {})
            if "samples" in noise:
                print(f"- {found.parent.name}: noise scale {noise}")
        if (SWEEPS / study.name / "scale.json").exists():
            print("- " + (SWEEPS / study.name / "scale.json").read_text()[:2000])


def main() -> int:
    """Run stages, or show their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "tables"])
    parser.add_argument("--parallel", type=int, default=1, help="processes, over all studies of the stages")
    parser.add_argument("--budget", help="'60 min': no run is started after that")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all runs")
    arguments = parser.parse_args()
    SWEEPS.mkdir(exist_ok=True)
    if arguments.stages == ["tables"]:
        tables(list(STAGES))
        return 0
    code = run(arguments.stages, arguments.parallel, arguments.budget, arguments.set)
    tables(arguments.stages)
    return code


if __name__ == "__main__":
    sys.exit(main())

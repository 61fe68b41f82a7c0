"""The experiment of docs/experiments/critical-batch.md: tuned at one batch, carried to others, ramps, and a rescue.

    python prepare.py                                  # once: the data
    python experiment.py tune                          # the best rates of it stand in BEST
    python experiment.py scale noise ramp              # the news, about two hours of one core
    python experiment.py rescue                        # the tweets, about two hours of another core
    python experiment.py tables                        # of what is finished, as Markdown

Every study is a `bigbatch sweep` or `bigbatch scale` in sweeps/, one after another; the same command goes on where it
stopped. Give each process a core of its own (OMP_NUM_THREADS=1), or `--parallel 14` to a large accelerator.
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
BEST = {"adamw": "2e-3", "lamb": "1e-2"}
"""Learning rate at the base batch of 64 news, from the stage `tune`."""
TARGET = "loss=.5"
BATCHES = "16,64,256,1024"
SHORT = ["plan.compile=off", "scale.every=never"]
"""Many short runs: compiling would cost each of them more than it saves."""
SIX_EPOCHS = ["epochs=6", "schedule=linear", "schedule.warmup=6 %", "run.evaluate_every=1 epochs"]


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
            "-P",
            "-m",
            "bigbatch",
            "scale" if self.batches else "sweep",
            f"{self.recipe}.yaml",
        ]
        words += [*SHORT, *self.words, "--name", self.name, "--parallel", str(parallel), "--drop-weights"]
        words += ["--budget", budget] if budget else []
        if self.batches:
            return [
                *words, "--batches", self.batches, "--target", TARGET, "--seeds", self.seeds,
                "--every", "0.2 epochs",
            ]  # fmt: skip
        return [
            *words,
            *(word for axis in self.over for word in ("--over", axis)),
            "--over",
            f"seed={self.seeds}",
        ]


def optimizer(name: str, rule: str = "sqrt") -> list[str]:
    """The best rate at the base batch, and the rule that carries it."""
    return [f"optimizer.name={name}", f"optimizer.lr={BEST[name]}", f"optimizer.lr_rule={rule}"]


def tuning(name: str, *rates: str) -> Study:
    """Three epochs at the base batch, constant rate behind the warm-up."""
    return Study(
        name=f"tune-{name}",
        recipe="r8",
        words=[f"optimizer.name={name}", "epochs=3"],
        over=[f"optimizer.lr={','.join(rates)}"],
        seeds="0,1",
    )


def carried(name: str, rule: str) -> Study:
    """Four batches to the target, the rate carried from the base batch by a rule."""
    return Study(
        name=f"scale-{name}-{rule}",
        recipe="r8",
        batches=BATCHES,
        words=[*optimizer(name, rule), "epochs=14"],
    )


def ramp(name: str, *words: str, over: str = "optimizer.weight_decay=0.01") -> Study:
    """Six epochs of news under a linear schedule."""
    return Study(name=f"ramp-{name}", recipe="r8", words=[*SIX_EPOCHS, *words], over=[over], seeds="0,1")


def rescue(name: str, *words: str) -> Study:
    """Three epochs of 1,024 tweets."""
    given = ["epochs=3", "schedule=linear", "batch.samples=1024", "optimizer.lr_rule=none"]
    return Study(
        name=f"rescue-{name}",
        recipe="tweets",
        words=[*given, "schedule.warmup=6 %", "run.evaluate_every=0.5 epochs", *words],
        over=["optimizer.weight_decay=0.01"],
        seeds="0",
    )


def grown(by: str, **table: int) -> str:
    """A ramp from 64 to 1,024 as a word of the command line."""
    steps = "".join(
        f", table: {{{', '.join(f'{at[1:]} %: {batch}' for at, batch in table.items())}}}" if table else ""
    )
    return f"batch={{samples: 1024, ramp: {{from: 64, by: {by}{steps}}}}}"


STAGES: dict[str, list[Study]] = {
    "tune": [
        tuning("adamw", "5e-4", "1e-3", "2e-3", "4e-3"),
        tuning("lamb", "2.5e-3", "5e-3", "1e-2", "2e-2"),
    ],
    "scale": [carried("adamw", "sqrt"), carried("lamb", "sqrt"), carried("adamw", "linear")],
    "noise": [
        Study(
            name="noise",
            recipe="r8",
            over=["batch.samples=64,256"],
            seeds="0",
            words=["epochs=6", "scale.every=4 updates", *optimizer("adamw")],
        )
    ],
    "ramp": [
        ramp("fixed-64", "batch.samples=64", over="optimizer.lr=1e-3,2e-3"),
        ramp("noise", "optimizer.lr=1e-3", grown("noise"), "scale.every=2 updates"),
        ramp("table", "optimizer.lr=1e-3", grown("table", p12=256, p35=1024)),
        ramp("schedule", "optimizer.lr=1e-3", grown("schedule")),
        ramp("fixed-256", "optimizer.lr=1e-3", "batch.samples=256"),
        ramp("fixed-1024", "optimizer.lr=1e-3", "batch.samples=1024"),
    ],
    "rescue": [
        rescue("known", "optimizer.lr=1.5e-3"),
        rescue("ramp", grown("table", p10=256, p30=1024), "optimizer.lr=2.5e-4", "optimizer.lr_rule=sqrt"),
        rescue("small", "optimizer.lr=5e-4"),
        rescue("lamb", "optimizer.name=lamb", "optimizer.lr=1e-2"),
        rescue("warmup", "optimizer.lr=1.5e-3", "schedule.warmup=40 %"),
    ],
}


def run(stages: list[str], parallel: int, budget: str | None, extra: list[str]) -> int:
    """The studies of the stages, one after another."""
    codes = []
    for study in (study for stage in stages for study in STAGES[stage]):
        command = study.command(parallel, budget)
        at = command.index("--name")
        command[at:at] = extra
        print(f"{study.name}: started", flush=True)
        with (SWEEPS / f"{study.name}.log").open("w") as log:
            code = subprocess.run(
                command, cwd=HERE, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
        codes.append(code)
        ended = "done" if code == 0 else f"exit code {code}, see sweeps/{study.name}.log"
        print(f"{study.name}: {ended}", flush=True)
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
    parser.add_argument("--parallel", type=int, default=1, help="runs of a study at a time")
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

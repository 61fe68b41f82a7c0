"""From the command to the figure that the Trainer's usual recipe ends with: bigbatch on `auto` against that recipe.

The Trainer's time is that of its first updates, carried on to the end of its 3 epochs of 16 samples at 5e-5 (an
update costs the same throughout, on rows in random order); the figure it ends with is given, since it takes long.
bigbatch trains what `init` writes until an evaluation of its validation rows reaches that figure. CPU seconds of all
processes, in turns, as in `benchmarks/start.py`.

    python benchmarks/reach.py --model MODEL FOLDER --figure accuracy 0.786 --rounds 3 --save
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.start import BATCH, RESULTS, TRAINER, spread, started  # noqa: E402

EARLY, LATE, EPOCHS = 20, 80, 3
"""Updates of the Trainer between which its speed is measured, and its epochs."""


def trainer_seconds(model: str, data: Path, updates: int) -> float:
    """CPU seconds of the whole usual recipe: its start, and so many updates at the measured speed."""
    seconds = []
    for steps in (EARLY, LATE):
        with tempfile.TemporaryDirectory(prefix="reach-") as folder:
            out = Path(folder)
            script = out / "trainer.py"
            script.write_text(TRAINER, encoding="utf-8")
            command = [sys.executable, str(script), model, str(data), str(out), "csv", str(steps)]
            seconds.append(started(command, out, (out / "first").exists, out / "log").cpu)
    speed = (seconds[1] - seconds[0]) / (LATE - EARLY)
    return seconds[0] + speed * (updates - EARLY)


def our_seconds(model: str, data: Path, name: str, figure: float) -> float:
    """CPU seconds from `bigbatch train` to the first evaluation at least as good."""
    with tempfile.TemporaryDirectory(prefix="reach-") as folder:
        out = Path(folder)
        recipe, metrics = out / "recipe.yaml", out / "run" / "metrics.jsonl"
        bigbatch = [sys.executable, "-m", "bigbatch"]
        files = [str(data / "train.csv"), str(data / "test.csv")]
        subprocess.run(
            [*bigbatch, "init", *files, "--model", model, "--out", str(recipe)],
            check=True,
            capture_output=True,
        )

        def reached() -> bool:
            lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
            evaluations = [json.loads(line) for line in lines if line.endswith("}") and '"eval"' in line]
            return any((each.get(name) or 0) >= figure for each in evaluations)

        return started([*bigbatch, "train", str(recipe), f"run.dir={out}/run"], out, reached, out / "log").cpu


def main() -> None:
    """Measure in turns, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with train.csv and test.csv")
    parser.add_argument("--model", required=True)
    parser.add_argument("--figure", nargs=2, default=("accuracy", "0.786"), metavar=("NAME", "VALUE"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    asked = parser.parse_args()
    model, data = str(Path(asked.model).resolve()), asked.folder.resolve()
    name, value = asked.figure
    with (data / "train.csv").open(newline="", encoding="utf-8") as file:
        updates = -(-sum(1 for _ in csv.DictReader(file)) // BATCH) * EPOCHS
    rounds = []
    for number in range(asked.rounds):
        theirs, ours = trainer_seconds(model, data, updates), our_seconds(model, data, name, float(value))
        rounds.append((theirs, ours))
        print(
            f"round {number + 1}: Trainer {theirs:.0f}, bigbatch {ours:.0f} CPU s: {ours / theirs:.3f}",
            flush=True,
        )
    ratios = [ours / theirs for theirs, ours in rounds]
    theirs, ours = (median(each) for each in zip(*rounds, strict=True))
    lines = [
        f"| {data.name}: to {name} {value} | CPU seconds |",
        "|---|---|",
        f"| Trainer, {updates:,} updates of {BATCH}, 5e-5 | {theirs:,.0f} |",
        f"| bigbatch, what `init` writes | {ours:,.0f} |",
        f"| ratio, median and range of {len(rounds)} rounds | {spread(ratios)} |",
    ]
    print("\n".join(lines))
    if asked.save:
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        text = "\n".join([f"# Time to the Trainer's figure, {date}", "", *lines, ""])
        (RESULTS / f"{date}-reach.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

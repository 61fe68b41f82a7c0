"""A first run with no key changed, against a bag of words on the same rows: `init`, then `train`.

Each folder holds train.csv and test.csv with the columns `text` and `label`; nothing is downloaded. A folder that has
run is not trained again, so that an interrupted table goes on.

    python benchmarks/first_run.py --model MODEL FOLDER…
    python benchmarks/first_run.py --model MODEL --save FOLDER… -- plan.threads=1
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HEAD = (
    "| data | rows | classes | epochs | updates | minutes | accuracy | bag of words | macro F1 | bag of words |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
BAG = "bag of words"


def main() -> None:
    """Train what has not run yet, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs-first"), help="where recipes and runs go")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    asked, changes = parser.parse_args(words[:at]), words[at + 1 :]
    asked.runs.mkdir(parents=True, exist_ok=True)
    rows = [
        row(trained(folder.resolve(), asked.model, asked.runs.resolve(), changes)) for folder in asked.folders
    ]
    lines = [*HEAD, *rows]
    print("\n".join(lines))
    if asked.save:
        how = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
        changed = f"; changed: {' '.join(changes)}" if changes else ""
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        text = (
            f"# A first run, {date}\n\n{Path(asked.model).name}; {how}{changed}\n\n" + "\n".join(lines) + "\n"
        )
        (RESULTS / f"{date}-first-run.md").write_text(text, encoding="utf-8")


def trained(folder: Path, model: str, runs: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Figures of one data set; from its files where it has run."""
    recipe, run = runs / f"{folder.name}.yaml", runs / "runs" / folder.name
    bigbatch = [sys.executable, "-m", "bigbatch"]
    if not recipe.exists():
        data = [str(folder / "train.csv"), str(folder / "test.csv")]
        subprocess.run([*bigbatch, "init", *data, "--model", model, "--out", str(recipe)], check=True)
    seconds = runs / f"{folder.name}.seconds"
    if not (run / "result.json").exists():
        begun = time.monotonic()
        subprocess.run([*bigbatch, "train", str(recipe), f"run.dir={run}", *changes], check=True, cwd=runs)
        seconds.write_text(f"{time.monotonic() - begun:.0f}")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    with (folder / "train.csv").open(newline="", encoding="utf-8") as file:
        labels = [each["label"] for each in csv.DictReader(file)]
    return {
        "name": folder.name,
        "rows": len(labels),
        "classes": len(set(labels)),
        "seconds": float(seconds.read_text()) if seconds.exists() else result["train_seconds"],
        "result": result,
    }


def row(found: dict[str, Any]) -> str:
    """One line of the table."""
    result = found["result"]
    test = result["final"]["test"]
    bag = next(
        (each for name, each in result.get("baseline", {}).items() if BAG in name.replace("_", " ")), {}
    )
    figures = [
        f"{figure:.3f}" if figure is not None else "-"
        for name in ("accuracy", "f1_macro")
        for figure in (test.get(name), bag.get("test", {}).get(name))
    ]
    epochs = result["samples"] / (found["rows"] * 0.9)
    cells = [
        found["name"],
        f"{found['rows']:,}",
        str(found["classes"]),
        f"{epochs:.1f}",
        f"{result['updates']:,}",
        f"{found['seconds'] / 60:.1f}",
        *figures,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

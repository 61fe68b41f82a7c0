"""`make demo`: data, baseline, training, and one table that holds them against each other.

Exits with 1 when the trained model is not at least two points better than the baseline, on both figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RUN = HERE.parents[1] / "runs" / "airline-tweets"
SPENT = HERE / "data" / "interrupted.json"
"""Seconds of calls that were interrupted; the next call goes on where they stopped."""
MARGIN = 0.02
FIGURES = {"accuracy": "accuracy", "macro F1": "f1_macro"}


def step(title: str, *command: str) -> None:
    """Say what comes, run it with its output visible, stop when it fails."""
    print(f"\n== {title}", flush=True)
    code = run(*command)
    if code:
        sys.exit(code)


def shown(path: Path) -> str:
    """The path as a person would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def table(baseline: dict[str, float], final: dict[str, float]) -> list[str]:
    """Quality on the test file, baseline against bigbatch, in points."""
    lines = [f"{'test set':<12}{'baseline':>10}{'bigbatch':>10}{'difference':>18}"]
    for name, key in FIGURES.items():
        points = 100 * (final[key] - baseline[key])
        lines.append(f"{name:<12}{baseline[key]:>10.4f}{final[key]:>10.4f}{points:>+11.1f} points")
    return lines


def measurements(result: dict[str, Any]) -> list[str]:
    """What the run cost: predicted before the first update, and measured."""
    lines = [f"{'':<24}{'predicted':>12}{'measured':>12}"]
    for name, key, scale in (
        ("training, s", "train_seconds", 1),
        ("evaluation, s", "evaluate_seconds", 1),
        ("peak memory, GiB", "peak_memory_bytes", 2**30),
    ):
        guess = result["predicted"].get(key)
        lines.append(
            f"{name:<24}{'-' if guess is None else f'{guess / scale:.2f}':>12}{result[key] / scale:>12.2f}"
        )
    return [
        *lines,
        f"{'updates':<24}{'':>12}{result['updates']:>12,}",
        f"{'real tokens per second':<24}{'':>12}{result['real_tokens_per_second']:>12,.0f}",
        f"{'padding among tokens':<24}{'':>12}{result['padding_share']:>12.1%}",
    ]


def run(*command: str) -> int:
    """Run a command and return its exit code. Ctrl-C goes to it, too: it ends by itself, and this waits for that."""
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def interrupted_after(seconds: float) -> None:
    """Remember the time of a call that did not come to the end: the next one goes on, and counts it."""
    before = json.loads(SPENT.read_text(encoding="utf-8")) if SPENT.exists() else []
    SPENT.write_text(json.dumps([*before, seconds]), encoding="utf-8")


def main() -> int:
    """Run the demo; 0 when the model beats the baseline by the margin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", help="key=value, handed to bigbatch train")
    settings = parser.parse_args().settings
    started = time.perf_counter()
    step(
        "The data: tweets about six airlines, and a pretrained BERT",
        sys.executable,
        str(HERE / "make_data.py"),
    )
    step("The baseline: TF-IDF and logistic regression", sys.executable, str(HERE / "baseline.py"))
    recipe = HERE / "recipe.yaml"
    print(f"\n== The large batch: bigbatch train {shown(recipe)}", flush=True)
    bigbatch = (sys.executable, "-P", "-m", "bigbatch")
    code = run(*bigbatch, "train", str(recipe), f"run.dir={RUN}", *settings)
    if code:
        interrupted_after(time.perf_counter() - started)
        return code

    baseline = json.loads((HERE / "data" / "baseline.json").read_text(encoding="utf-8"))
    result = json.loads((RUN / "result.json").read_text(encoding="utf-8"))
    final = result["final"]["test"]
    plan = json.loads((RUN / "plan.json").read_text(encoding="utf-8"))
    print("\n== Result", *table(baseline, final), "", *measurements(result), sep="\n")
    print(f"({plan['padding_share']['reason']})")
    spent = sum(json.loads(SPENT.read_text(encoding="utf-8"))) if SPENT.exists() else 0.0
    calls = "" if not spent else ", with the calls that were interrupted"
    print(f"\nThe whole demo took {(spent + time.perf_counter() - started) / 60:.1f} minutes{calls}.")
    SPENT.unlink(missing_ok=True)
    print(f"Report: {shown(RUN / 'report.html')}\nModel:  {shown(RUN / 'model')} (Hugging Face format)")
    beaten = all(final[key] >= baseline[key] + MARGIN for key in FIGURES.values())
    if not beaten:
        print(
            f"The model is not {100 * MARGIN:.0f} points better than the baseline on both.", file=sys.stderr
        )
    return 0 if beaten else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

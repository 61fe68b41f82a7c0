"""Perplexity with and without `model.memory`, at equally many predicted tokens, on Jane Austen's novels.

Each way is a run of `bigbatch train` on the recipe of examples/long-inputs with each seed, in a process of its own;
seed after seed, so that what is there at any time is comparable; a run that is done is not made again. All ways make
as many updates of as many predicted tokens; what is read in front of them differs, and what an update costs. Each model
is also asked how it would do with memory in evaluation alone (`evaluated`): that is what more context is worth without
having been trained with it.

    python examples/long-inputs/prepare.py
    python benchmarks/memory.py --save
    python benchmarks/memory.py --seeds 1 -- epochs=2 plan.threads=2
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EXAMPLE = ROOT / "examples" / "long-inputs"
WAYS: dict[str, dict[str, int]] = {
    "pieces of 64": {"model.memory": 0},
    "pieces of 64, memory 64": {"model.memory": 64},
    "pieces of 64, memory 192": {"model.memory": 192},
    "pieces of 128": {"model.memory": 0, "data.max_length": 128, "batch": 32},
}
PIECE = 64
"""`data.max_length` of the recipe."""
EVALUATED = (0, 64, 192)
"""Memory with which every model is evaluated again."""


def main() -> None:
    """Train what has not run yet, evaluate, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs-memory"), help="where the runs go")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    asked, changes = parser.parse_args(words[:at]), words[at + 1 :]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for seed in range(asked.seeds):
        for name in WAYS:
            found[name].append(trained(name, seed, asked.runs.resolve(), changes))
    lines = table_of(found)
    print("\n".join(lines))
    if asked.save:
        save(found, changes)


def trained(name: str, seed: int, runs: Path, changes: Sequence[str]) -> dict[str, float]:
    """What one run came to; from its files where it has run."""
    run = runs / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if not (run / "result.json").exists():
        print(f"{name}, seed {seed}", flush=True)
        keys = [f"{key}={value}" for key, value in WAYS[name].items()]
        words = [*keys, f"seed={seed}", f"run.dir={run}", *changes]
        command = [sys.executable, "-m", "bigbatch", "train", str(EXAMPLE / "recipe.yaml"), *words]
        subprocess.run(command, check=True)
    result = json.loads((run / "result.json").read_text("utf-8"))
    piece = WAYS[name].get("data.max_length", PIECE)
    kept = run / "windows.json"
    if not kept.exists():
        windows = {str(memory): sliding(run / "model", piece, memory) for memory in EVALUATED}
        kept.write_text(json.dumps(windows), "utf-8")
    windows = json.loads(kept.read_text("utf-8"))
    told, again = result["final"]["test"]["perplexity"], windows[str(WAYS[name]["model.memory"])]
    if abs(told / again - 1) > 1e-4:
        sys.exit(f"{name}, seed {seed}: the run says perplexity {told}, a loop over windows {again}")
    return {
        "validation": result["final"]["validation"]["perplexity"],
        "test": told,
        **{f"test with memory {memory}": value for memory, value in windows.items()},
        "updates": result["updates"],
        "tokens read": result["tokens"],
        "train seconds": result["train_seconds"],
        "peak MiB": result["peak_memory_bytes"] / 2**20,
    }


def sliding(folder: Path, piece: int, memory: int) -> float:
    """Perplexity of the test chapters by transformers alone: each piece behind so many tokens of its chapter."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    windows: list[tuple[list[int], int]] = []
    for line in (EXAMPLE / "data" / "test.jsonl").read_text("utf-8").splitlines():
        ids = [*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]
        for first in range(0, len(ids) - 1, piece - 1):
            begin = max(0, first - memory)
            windows.append((ids[begin : first + piece], first - begin))
    windows.sort(key=lambda window: len(window[0]))
    total, count = 0.0, 0
    with torch.inference_mode():
        for at in range(0, len(windows), 32):
            ids_L, before_L = zip(*windows[at : at + 32], strict=True)
            ids_BL = torch.nn.utils.rnn.pad_sequence([torch.tensor(each) for each in ids_L], True)
            logits_BLV = model(input_ids=ids_BL).logits  # causal: what stands behind a window is not seen
            for row, (ids, before) in enumerate(zip(ids_L, before_L, strict=True)):
                wanted = torch.tensor(ids[before + 1 :])
                logits = logits_BLV[row, before : len(ids) - 1].double()
                total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
                count += len(wanted)
    return math.exp(total / count)


def table_of(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Means over the seeds, and how far seeds lie apart."""
    shown = [f"test with memory {memory}" for memory in EVALUATED]
    lines = [
        f"| way | seeds | test perplexity | {' | '.join(shown)} | tokens read | train seconds |",
        f"|---|---|---|{'---|' * len(shown)}---|---|",
    ]
    for name, runs in found.items():
        tests = [each["test"] for each in runs]
        means = [f"{statistics.fmean(each[column] for each in runs):.2f}" for column in shown]
        read, seconds = (
            statistics.fmean(each[key] for each in runs) for key in ("tokens read", "train seconds")
        )
        spread = f"{statistics.fmean(tests):.2f} ({min(tests):.2f} to {max(tests):.2f})"
        lines.append(
            f"| {name} | {len(runs)} | {spread} | {' | '.join(means)} | {read / 1e6:.1f} million | {seconds:.0f} |"
        )
    return lines


def save(found: dict[str, list[dict[str, float]]], changes: Sequence[str]) -> None:
    """Write what was found, with date, versions and commit."""
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    told = {
        "date": date,
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "changes": list(changes),
        "runs": found,
    }
    (RESULTS / f"{date}-memory.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

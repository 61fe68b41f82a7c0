"""A job on rows in many files, with a model of its own, and runs of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

import bigbatch
from bigbatch.run.run import Run
from tests.models import WORDS, tiny_folder


def shard_job(folder: Path, sizes: Sequence[int]) -> Path:
    """`job.yaml`, `model`, `rows/` of so many rows a file, and `held.jsonl`; returns the folder."""
    tiny_folder(folder / "model")
    (folder / "rows").mkdir()
    for number, count in enumerate([*sizes, 9]):
        rows = [
            {"text": f"{WORDS[(number + row) % 9]} {WORDS[row]} {number}", "label": "ab"[row % 2]}
            for row in range(count)
        ]
        place = folder / ("held.jsonl" if number == len(sizes) else f"rows/{number:02}.jsonl")
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": "model", "task": "classify", "batch": 8, "epochs": 2, "baseline": "off",
        "data": {"train": "rows", "validation": "held.jsonl", "shuffle": "shards"},
        "plan": {"packing": "padded", "micro_tokens": 64}, "regularise": {"dropout": 0.1},
        "run": {"root": str(folder), "checkpoint_every": "4 updates"},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def start(folder: Path, name: str, **keys: object) -> Run:
    """A run of the job, below the folder."""
    return bigbatch.start(folder / "job.yaml", set={"run.dir": name, **keys})

"""A small offline training job, and what must be equal when it was killed and went on.

Runs in processes of its own: either the real command line (`Job.command`), or a child that a warm parent
forks (`forks.py`), which saves the seconds that importing takes and can be killed at a named place.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bigbatch.store.checkpoints import list_checkpoints, read_checkpoint
from bigbatch.store.directory import RunDirectory
from tests.models import WORDS, tiny_folder

LABELS = ("negative", "neutral", "positive")
UPDATES = 40
BATCH = 18
RECIPE: dict[str, Any] = {
    "task": {"name": "classify"},
    "data": {"train": "train.csv", "validation": 0.2, "test": "test.csv"},
    # 320 rows to train on: a batch of 18 crosses the ends of both epochs.
    "batch": BATCH,
    "updates": UPDATES,
    "optimizer": {"name": "adamw", "lr": 2e-2},
    "schedule": {"name": "linear", "warmup": "10 %"},
    "clip": 1.0,
    "regularise": {"dropout": 0.1},
    "best": "f1_macro",
    # Small enough for several micro-batches an update; measured sizes could differ between two runs.
    # What is measured could differ from run to run; kernels of attention draw different dropout masks.
    "plan": {"micro_tokens": 96, "threads": 1, "attention": "chunked"},
    "run": {"dir": "runs/job", "evaluate_every": "8 updates", "checkpoint_every": "5 updates", "keep": 2},
}


@dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int
    """Exit code; -9 for one that was killed."""
    output: str


@dataclass(frozen=True)
class Job:
    """A folder with data, model and recipe; paths in the recipe are relative to it."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "job"

    def change(self, **sections: Any) -> None:
        """Rewrite the recipe with other sections; mappings are merged one level deep."""
        found = yaml.safe_load(self.recipe.read_text())
        for name, value in sections.items():
            found[name] = {**found.get(name, {}), **value} if isinstance(value, dict) else value
        self.recipe.write_text(yaml.safe_dump(found, sort_keys=False))

    def command(self, *words: str) -> Done:
        """`python -m bigbatch train recipe.yaml …`, to its end."""
        process = self.started(*words)
        output, _ = process.communicate()
        return Done(process.returncode, output)

    def started(self, *words: str) -> subprocess.Popen[str]:
        """The same, left running; its output is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "bigbatch", "train", "recipe.yaml", *words],
            cwd=self.folder,
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def write_job(folder: Path, model: Path, **sections: Any) -> Job:
    """Data whose labels follow from its words, a model to copy nothing from, and the recipe above."""
    folder.mkdir(parents=True)
    _write_rows(folder / "train.csv", 400, seed=1)
    _write_rows(folder / "test.csv", 90, seed=2)
    job = Job(folder)
    job.recipe.write_text(yaml.safe_dump({"model": str(model), **RECIPE}, sort_keys=False))
    job.change(**sections)
    return job


def tiny_model(folder: Path) -> Path:
    """The model that jobs start from; one can serve many."""
    return tiny_folder(folder, "bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)


def _write_rows(path: Path, count: int, seed: int) -> None:
    """Texts of 2 to 14 words; the label is what most of the telling ones say, with some noise."""
    random = np.random.default_rng(seed)
    good, bad = ("great", "good", "love", "best", "kind"), ("late", "bad", "lost", "worst", "rude")
    lines = ["text,label"]
    for _ in range(count):
        words = [str(word) for word in random.choice(WORDS, random.integers(2, 15))]
        score = sum(word in good for word in words) - sum(word in bad for word in words)
        score += int(random.random() < 0.05)
        lines.append(f"{' '.join(words)},{LABELS[int(np.sign(score)) + 1]}")
    path.write_text("\n".join(lines) + "\n")


# ---------------------------------------------------------------- what must be equal


def records(run: Path, kind: str, **wanted: Any) -> list[dict[str, Any]]:
    """Records of one kind in metrics.jsonl, those with these fields."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        record
        for record in found
        if record["kind"] == kind and all(record.get(key) == value for key, value in wanted.items())
    ]


def outcome(run: Path) -> dict[str, Any]:
    """Everything that a kill must not change, bit for bit: floats as their exact text, tensors as hashes."""
    newest = read_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    updates = records(run, "update")
    evaluations = {
        (record["step"], record["split"]): {
            key: value
            for key, value in record.items()
            if key not in ("time", "seconds", "samples_per_second")
        }
        for record in records(run, "eval")
    }
    result = json.loads((run / "result.json").read_text())
    return {
        "steps": [record["step"] for record in updates],
        "loss": [record["loss"].hex() for record in updates],
        "grad_norm": [record["grad_norm"].hex() for record in updates],
        "lr": [record["lr"].hex() for record in updates],
        "tokens": [record["tokens"] for record in updates],
        "evaluations": evaluations,
        "checkpoint": newest.step,
        "tensors": {name: tensor_hash(tensor) for name, tensor in newest.tensors.items()},
        "position": newest.state["progress"]["position"],
        "exported": file_hash(run / "model" / "model.safetensors"),
        "final": result["final"],
        "best": result["best"],
        "kept": result["kept"],
        "exit_reason": result["exit_reason"],
    }


def tensor_hash(tensor: Any) -> str:
    """SHA-256 of type, shape and bits."""
    array = tensor.detach().contiguous().numpy()
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_hash(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash and the time of its last change."""
    return {
        str(path.relative_to(folder)): f"{file_hash(path)} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def state(run: Path) -> str | None:
    """`state` of status.json."""
    status = RunDirectory(run).read_status()
    return status.state if status else None


def leftovers(run: Path) -> list[str]:
    """Temporary files and folders in a run directory."""
    return sorted(
        str(path.relative_to(run)) for path in run.rglob(".*") if path.name != ".lock-guard" and run.exists()
    )

"""Writes run directories that look like real ones, field for field as the contract has them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bigbatch.facts import Choice
from bigbatch.records import Eval, Event, Update

LABELS = ["negative", "neutral", "positive"]
CONFUSION = [[1318, 92, 41], [118, 301, 53], [37, 49, 234]]
RECIPE = """\
model:
  name: sentence-transformers/all-MiniLM-L6-v2
  revision: null
  init: pretrained
  trainable: all
task:
  name: classify
  args: {}
data:
  train:
  - path: train.csv
  validation: 0.1
  test:
  - path: test.csv
  columns:
    text: text
    label: sentiment
  max_length: 128
batch:
  samples: 256
epochs: 2
optimizer:
  name: adamw
  lr: 0.0005
  betas: [0.9, 0.999]
  weight_decay: 0.01
schedule:
  name: linear
  warmup: 6 %
clip: 1.0
best: f1_macro
seed:
  model: 0
  data: 0
  dropout: 0
run:
  dir: runs/tweets
  evaluate_every: 11 updates
"""
ENVIRONMENT = {
    "bigbatch": "0.1.0",
    "versions": {"python": "3.13.5", "torch": "2.13.0+cpu", "transformers": "5.23.0", "numpy": "2.4.1"},
    "hardware": {
        "device": "cpu",
        "device_name": "Intel(R) Xeon(R) Platinum 8488C",
        "memory_bytes": 8_262_000_000,
        "cores": 2,
        "threads": 2,
    },
    "data_fingerprint": "5b0a6f1f6c1f0f2d7a6e9d3b8c4e2a1097f5d6c3b2a190887766554433221100",
    "platform": "Linux-6.12-x86_64",
}
EXAMPLES = [
    {
        "text": "@united thanks for the two hour wait on the tarmac, really made my birthday special",
        "label": "negative",
        "predicted": "positive",
        "probability": 0.981,
    },
    {
        "text": "@SouthwestAir when do the summer schedules come out? Need to book for a wedding.",
        "label": "negative",
        "predicted": "neutral",
        "probability": 0.964,
    },
    {
        "text": "@JetBlue you are the worst best airline I have ever flown with",
        "label": "positive",
        "predicted": "negative",
        "probability": 0.952,
    },
    {"text": "@AmericanAir flight 1701", "label": "negative", "predicted": "neutral", "probability": 0.938},
]


def plan() -> dict[str, Any]:
    """A plan.json as the contract has it, with the planner's predictions."""
    memory = "weights 87 MiB + gradients 87 MiB + AdamW 173 MiB + activations 610 MiB + resting 400 MiB"
    return {
        "device": choice("cpu", "no accelerator was found", "measured"),
        "micro_tokens": choice(
            2048, "fastest of 512, 1,024, 2,048 and 4,096", "measured", 1466.0, "tokens/s"
        ),
        "packing": choice("packed", "packed and padded logits agree to 3e-8 on 16 real samples", "measured"),
        "precision": choice("fp32", "this CPU has no fast bf16", "derived"),
        "ranks": choice(1, "one device", "default"),
        "threads": choice(2, "as many as cores", "default"),
        "peak_memory_bytes": choice({"weights": 91_000_000}, memory, "derived", 1_420_000_000, "bytes"),
        "updates": choice(88, "88 updates = 22,528 samples = 2.009 epochs", "derived"),
        "train_seconds": choice("8 min 18 s", "750,000 tokens and 88 updates", "measured", 498.0, "s"),
        "padding_share_random": choice(0.44, "the lengths of the training samples", "measured"),
        "warnings": choice([], "worth reading before the run", "derived"),
    }


def choice(
    value: Any, reason: str, source: Any, prediction: float | None = None, unit: str | None = None
) -> dict[str, Any]:
    """One line of plan.json."""
    return asdict(Choice(value=value, reason=reason, source=source, prediction=prediction, unit=unit))


def records(
    updates: int = 88,
    *,
    batch: int = 256,
    evaluate_every: int = 11,
    lr: float = 5e-4,
    seed: int = 0,
    best: float = 0.8,
) -> list[dict[str, Any]]:
    """Journal lines of a plausible run: a falling loss, evaluations, a resume, a skipped update."""
    dice = random.Random(seed)
    lines: list[dict[str, Any]] = []
    tokens = 0
    for step in range(1, updates + 1):
        part = (step - 0.5) / updates
        skipped = step == updates // 3
        batch_tokens = int(batch * 34 * dice.uniform(0.96, 1.04))
        tokens += batch_tokens
        loss = 0.36 + 0.74 * math.exp(-6 * part) + dice.gauss(0, 0.02)
        lines.append(
            Update(
                step=step,
                time=_clock(step * 5.6),
                samples=step * batch,
                tokens=tokens,
                batch_samples=batch,
                batch_tokens=batch_tokens,
                loss=math.nan if skipped else loss,
                terms={"cross_entropy": math.nan if skipped else loss},
                grad_norm=math.inf if skipped else 0.8 + 1.6 * math.exp(-8 * part) + abs(dice.gauss(0, 0.15)),
                lr=lr * min(part / 0.06, (1 - part) / 0.94),
                seconds=5.6 * dice.uniform(0.94, 1.08),
                wait_seconds=0.002,
                padding_share=0.0 if step % 7 else 0.004,
                peak_memory_bytes=1_310_000_000 + min(step, 20) * 1_500_000,
                skipped=skipped,
            ).to_dict()
        )
        if skipped:
            lines.append(
                Event(
                    step=step,
                    time=_clock(step * 5.6 + 0.1),
                    event="nonfinite",
                    why="the gradient norm was infinite",
                    did="skipped the update; the optimiser's state was not touched",
                    details={"sample_ids": [812, 77, 10431]},
                ).to_dict()
            )
        if step == updates // 2:
            lines.append(
                Event(
                    step=step,
                    time=_clock(step * 5.6 + 0.2),
                    event="resumed",
                    why="the run had been interrupted",
                    did=f"went on after update {step} from checkpoints/step-{step:06d}",
                ).to_dict()
            )
        if step % evaluate_every == 0 or step == updates:
            lines.append(evaluation("validation", step, part, dice, best))
    lines.append(evaluation("test", updates, 1.0, dice, best))
    return lines


def evaluation(split: str, step: int, part: float, dice: random.Random, best: float) -> dict[str, Any]:
    """One evaluation whose quality grows with the part of the run that is done."""
    quality = best - 0.34 * math.exp(-5 * part) + dice.gauss(0, 0.004)
    return Eval(
        step=step,
        time=_clock(step * 5.6 + 2),
        split=split,
        loss=0.41 + 0.5 * math.exp(-5 * part),
        metrics={
            "accuracy": quality + 0.052,
            "f1_macro": quality,
            "f1_weighted": quality + 0.05,
            "precision_macro": quality + 0.013,
            "recall_macro": quality - 0.011,
            "matthews_corrcoef": quality - 0.086,
            "roc_auc_ovr": quality + 0.13,
            "expected_calibration_error": 0.021,
        },
        seconds=2.4,
        samples_per_second=934.0,
    ).to_dict()


def result(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """result.json of a finished run with these records."""
    updates = [line for line in lines if line["kind"] == "update"]
    evals = [line for line in lines if line["kind"] == "eval"]
    facts = ("kind", "time", "step", "split", "seconds", "samples_per_second")
    final = {line["split"]: {key: value for key, value in line.items() if key not in facts} for line in evals}
    validations = [line for line in evals if line["split"] == "validation"]
    best = max(validations, key=lambda line: line["f1_macro"])
    return {
        "exit_reason": "finished",
        "updates": len(updates),
        "samples": updates[-1]["samples"],
        "tokens": updates[-1]["tokens"],
        "best": {
            "metric": "f1_macro",
            "split": "validation",
            "value": best["f1_macro"],
            "step": best["step"],
        },
        "final": final,
        "train_seconds": sum(line["seconds"] for line in updates),
        "evaluate_seconds": 21.9,
        "inference_samples_per_second": 934.0,
        "peak_memory_bytes": max(line["peak_memory_bytes"] for line in updates),
        "predicted": {"train_seconds": 498.0, "peak_memory_bytes": 1_420_000_000, "evaluate_seconds": 21.0},
    }


def quality(labels: list[str] | None = None) -> dict[str, Any]:
    """evaluation.json with a confusion matrix, calibration bins and wrong examples."""
    bins = [(0.45, 0.41, 44), (0.55, 0.52, 121), (0.65, 0.61, 160), (0.75, 0.70, 214), (0.85, 0.83, 391)]
    return {
        "test": {
            "labels": labels or LABELS,
            "confusion": CONFUSION,
            "calibration": [
                {
                    "lowest": stated - 0.05,
                    "highest": stated + 0.05,
                    "units": units,
                    "confidence": stated,
                    "accuracy": right,
                }
                for stated, right, units in [*bins, (0.96, 0.94, 1313)]
            ],
            "examples": EXAMPLES,
        }
    }


def write_run(
    folder: Path, *, finished: bool = True, files: Mapping[str, Any] | None = None, **shape: Any
) -> Path:
    """Write a run directory.

    Args:
        folder: where; created.
        finished: without it there is no result.json and no evaluation.json, and the status says running.
        files: JSON documents (or text) to write instead of the usual ones; None leaves a file out.
        shape: arguments of `records`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = records(**shape)
    state = {"state": "finished" if finished else "running", "update": 88, "host": "laptop", "job_id": None,
             "updated_at": _clock(500)}  # fmt: skip
    documents: dict[str, Any] = {
        "recipe.yaml": RECIPE,
        "plan.json": plan(),
        "environment.json": ENVIRONMENT,
        "status.json": state,
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
    }
    if finished:
        documents |= {"result.json": result(lines), "evaluation.json": quality()}
    for name, document in (documents | dict(files or {})).items():
        if document is not None:
            text = document if isinstance(document, str) else json.dumps(document, indent=1)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"2026-11-23T{10 + int(minutes) // 60:02d}:{int(minutes) % 60:02d}:{rest:06.3f}Z"

"""examples/your-own: a loss, a metric, a stop rule and a column of one's own are exact under any split, too."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.docs.test_readme import write_model, write_rows

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "your-own"


def test_it_is_short():
    lines = (EXAMPLE / "focal.py").read_text(encoding="utf-8").splitlines()
    code = [
        line for line in lines if line.strip() and not line.strip().startswith(('"""', "#", "import", "from"))
    ]
    assert len(code) <= 30


def test_focal_without_gamma_is_cross_entropy():
    focal = load("focal")
    logits, targets = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    plain = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(focal(logits, targets, gamma=0.0), plain)
    share = torch.softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(focal(logits, targets), (1 - share) ** 2 * plain)


def load(name: str):
    """An object of the example's file, as a recipe resolves it."""
    from bigbatch.recipe.references import resolve_reference

    return resolve_reference(f"focal.py:{name}", EXAMPLE)


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """Tiny data with a confidence column, a tiny model."""
    folder = tmp_path_factory.mktemp("your-own")
    write_model(folder / "tiny")
    write_rows(folder / "plain.csv", 0, 64)
    with (folder / "plain.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "confidence"])
        writer.writeheader()
        labels = ["negative", "neutral", "positive"]
        for number, row in enumerate(rows):
            confidence = round(0.65 + 0.35 * (number % 8) / 7, 3)
            writer.writerow({"text": row["text"], "label": labels[number % 3], "confidence": confidence})
    return folder


def updates(desk: Path, name: str, micro_tokens: int, python: str) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each update of the example's recipe on the tiny data."""
    settings = {
        "model.name": desk / "tiny",
        "data.train": desk / "train.csv",
        "data.test": desk / "train.csv",
        "data.validation": 0.25,
        "data.max_length": 32,
        "batch.samples": 16,
        "updates": 4,
        "regularise.dropout": 0.0,
        "plan.micro_tokens": micro_tokens,
        "run.dir": desk / name,
    }
    command = [python, "-c", "from bigbatch.cli import main; main()", "train", str(EXAMPLE / "recipe.yaml")]
    done = subprocess.run(
        [*command, *(f"{key}={value}" for key, value in settings.items())],
        cwd=desk,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (desk / name / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "update"]


@pytest.mark.slow
def test_the_split_does_not_matter(desk, python):
    whole, split = updates(desk, "whole", 4096, python), updates(desk, "split", 24, python)
    assert len(whole) == 4
    np.testing.assert_allclose(split, whole, rtol=1e-5)


@pytest.mark.slow
def test_the_metric_and_the_code_are_kept(desk, python):
    if not (desk / "whole" / "result.json").exists():
        updates(desk, "whole", 4096, python)
    final = json.loads((desk / "whole" / "result.json").read_text())["final"]
    assert any("cost" in name and math.isfinite(value) for name, value in final["test"].items())
    assert (desk / "whole" / "code" / "focal.py").read_text() == (EXAMPLE / "focal.py").read_text()

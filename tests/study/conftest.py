"""A recipe small enough to be trained four ways in a test."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bigbatch.recipe.load import load_recipe
from tests.models import WORDS, tiny_folder

ROWS = 100


def write_rows(path: Path, rows: int = ROWS) -> None:
    """Sentences of 1 to 11 words, three classes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "stars"])
        for number in range(rows):
            words = [WORDS[(number * step + step) % len(WORDS)] for step in range(1, 2 + (number * 7) % 11)]
            # A line break and quotes inside a text must survive the common CSV.
            text = " ".join(words) + ('\n"fine"' if number % 5 == 0 else "")
            writer.writerow([text, ["bad", "good", "ok"][number % 3]])


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/, data.csv and recipe.yaml: BERT, 2 layers, dropout 0, 64 samples an update."""
    folder = tmp_path_factory.mktemp("bench")
    tiny_folder(folder / "model")
    write_rows(folder / "data.csv")
    (folder / "recipe.yaml").write_text(
        "model: model\n"
        "data: {train: data.csv, validation: 0.1, max_length: 12, columns: {text: review, label: stars}}\n"
        "batch: 64\nepochs: 1\noptimizer: {lr: 1e-3}\nregularise: {dropout: 0}\n"
        "plan: {threads: 1, device: cpu}\nseed: 3\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def recipe(place: Path):
    return load_recipe(place / "recipe.yaml")

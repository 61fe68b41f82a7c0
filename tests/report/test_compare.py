from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.errors import UsageError
from bigbatch.report.compare import compare_runs, write_comparison
from tests.report.fake_run import ENVIRONMENT, RECIPE, write_run
from tests.report.test_html import Page

OTHER = (
    RECIPE.replace("256", "1024").replace("0.0005", "0.0015")
    + "observers: ['<img src=x onerror=alert(1)>']\n"
)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    small = write_run(tmp_path / "small")
    large = write_run(
        tmp_path / "large", files={"recipe.yaml": OTHER}, batch=1024, updates=22, evaluate_every=4
    )
    return [small, large]


def test_differing_recipe_keys_and_results_stand_side_by_side(runs: list[Path]) -> None:
    comparison = compare_runs(runs)
    assert comparison.names == ("small", "large")
    recipe = {row.name: row.values for row in comparison.recipe}
    assert recipe["batch.samples"] == ("256", "1024")
    assert recipe["optimizer.lr"] == ("0.0005", "0.0015")
    assert set(recipe) == {"batch.samples", "optimizer.lr", "observers"}
    results = {row.name: row.values for row in comparison.results}
    assert results["updates"] == ("88", "22")
    assert {"best f1_macro", "test accuracy", "training time", "real tokens/s", "peak memory"} <= set(results)


def test_the_table_has_aligned_columns(runs: list[Path]) -> None:
    lines = compare_runs(runs).lines()
    place = lines[0].index("small")
    row = next(line for line in lines if line.startswith("batch.samples"))
    assert row[place:].startswith("256")
    assert row.index("1024") == lines[0].index("large")
    assert all("\x1b" not in line for line in lines)


def test_the_page_overlays_curves_and_escapes(runs: list[Path], tmp_path: Path) -> None:
    path = write_comparison(compare_runs(runs), tmp_path / "compare.html")
    found = Page(path.read_text())
    assert "<img src=x onerror=alert(1)>" in found.text
    assert "img" not in found.tags and "script" not in found.tags
    assert {"tone-1", "tone-2"} <= {
        word for key, value in found.attributes if key == "class" for word in value.split()
    }
    for words in ("2 runs", "Training loss", "Evaluation loss", "F1 macro", "batch.samples"):
        assert words in found.text


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")
    comparison = compare_runs([first, second])
    assert comparison.names == (str(first), str(second))
    assert comparison.recipe == ()


def test_other_data_and_unfinished_runs_are_said(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", finished=False)
    second = write_run(
        tmp_path / "b", files={"environment.json": ENVIRONMENT | {"data_fingerprint": "other"}}
    )
    warnings = compare_runs([first, second]).warnings
    assert len(warnings) == 2
    assert "different data" in warnings[0] and "Not finished: a." in warnings[1]


def test_two_runs_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two"):
        compare_runs([write_run(tmp_path / "run")])
    with pytest.raises(UsageError, match="no such run directory"):
        compare_runs([tmp_path / "run", tmp_path / "other"])

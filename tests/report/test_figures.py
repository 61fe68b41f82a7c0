from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.report import facts, figures
from bigbatch.report.quality import split_quality
from bigbatch.report.read import read_run
from tests.report.fake_run import quality, write_run


def test_evaluations_are_placed_at_the_samples_of_their_update(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", batch=100))
    assert [x for x, _ in figures.eval_points(run, "validation", "loss")] == [1100.0 * n for n in range(1, 9)]


def test_a_skipped_update_leaves_a_gap_of_one_point(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert len(figures.update_points(run, "loss")) == 87
    assert len(figures.update_points(run, "lr")) == 88


def test_the_loss_chart_shows_all_splits_and_events(tmp_path: Path) -> None:
    chart = figures.loss_chart(read_run(write_run(tmp_path / "run")))
    assert [one.name for one in chart.series] == ["training", "validation", "test"]
    assert [mark.text.split(":")[0] for mark in chart.marks] == ["nonfinite", "resumed"]
    assert "goes from" in chart.description


def test_a_long_run_is_smoothed_over_faint_raw_values(tmp_path: Path) -> None:
    chart = figures.loss_chart(read_run(write_run(tmp_path / "run", updates=800, evaluate_every=100)))
    assert [one.style for one in chart.series[:2]] == ["faint", "line"]
    assert all(len(one.points) <= 403 for one in chart.series)


def test_the_learning_rate_is_never_smoothed(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", updates=200, evaluate_every=100))
    rates = [value for _, value in figures.update_points(run, "lr")]
    _, _, drawing = figures.training_cards(run)[0]
    ys = [float(pair.split(" ")[1]) for pair in str(drawing).split(' d="M')[1].split('"')[0].split("L")]
    assert len(ys) == 200
    assert ys.index(min(ys)) == rates.index(max(rates)), "the corner of the schedule is where it was"


def test_the_metric_of_the_run_leads(tmp_path: Path) -> None:
    assert figures.leading_metrics(read_run(write_run(tmp_path / "run"))) == [
        "f1_macro",
        "accuracy",
        "matthews_corrcoef",
    ]


def test_too_many_classes_have_no_matrix() -> None:
    labels = [str(number) for number in range(41)]
    counts = [[1] * 41 for _ in labels]
    assert figures.confusion_figure(split_quality("test", {"labels": labels, "confusion": counts})) is None
    assert figures.confusion_figure(split_quality("test", quality()["test"])) is not None


def test_figures_that_cannot_be_drawn_are_left_out() -> None:
    assert figures.reliability_figure(split_quality("test", {})) is None
    known = facts.Padding(real_tokens=10, computed_tokens=10, random_tokens=None)
    assert figures.padding_figure(known) is None


def test_overlays_give_every_run_its_tone() -> None:
    chart = figures.overlay("Loss", "nats", [("a", [(0.0, 1.0)]), ("b", []), ("c", [(0.0, 2.0)])], zero=True)
    assert [(one.name, one.tone) for one in chart.series] == [("a", 1), ("c", 3)]
    assert chart.description == "a ends at 1, c ends at 2."


@pytest.mark.parametrize("field", ["grad_norm", "lr"])
def test_a_column_that_was_not_recorded_has_no_chart(tmp_path: Path, field: str) -> None:
    run = read_run(write_run(tmp_path / "run", files={"metrics.jsonl": ""}))
    assert figures.training_cards(run) == []
    assert figures.update_points(run, field) == []

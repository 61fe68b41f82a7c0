from __future__ import annotations

import json
from pathlib import Path

import pytest

from bigbatch.report import facts
from bigbatch.report.html import render_report
from bigbatch.report.read import read_run
from tests.report.fake_run import choice, plan, records, result, write_run


def _updates(**changes: object) -> str:
    lines = [line for line in records(4, evaluate_every=99) if line["kind"] == "update"]
    return "".join(json.dumps(line | changes) + "\n" for line in lines)


def test_padding_is_weighed_by_tokens(tmp_path: Path) -> None:
    text = _updates(batch_tokens=600, padding_share=0.25)
    run = read_run(write_run(tmp_path / "run", files={"metrics.jsonl": text}))
    padding = facts.padding(run)
    assert padding is not None
    assert padding.real_tokens == 2400
    assert padding.computed_tokens == pytest.approx(3200)
    assert padding.share == pytest.approx(0.25)
    assert padding.random_tokens == pytest.approx(2400 / 0.56)
    assert padding.saved == pytest.approx(1 - 3200 * 0.56 / 2400)


def test_lengths_are_found_where_a_run_keeps_them(tmp_path: Path) -> None:
    files = {"plan.json": {}, "environment.json": {"lengths": {"padding_share_random": 0.5}}}
    padding = facts.padding(read_run(write_run(tmp_path / "run", files=files)))
    assert padding is not None and padding.random_tokens == pytest.approx(2 * padding.real_tokens)
    bare = facts.padding(read_run(write_run(tmp_path / "bare", files={"plan.json": {}})))
    assert bare is not None and bare.saved is None


def test_predictions_stand_against_measurements(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    lines = {line.name: line for line in facts.compared(run)}
    assert list(lines) == ["train_seconds", "peak_memory_bytes", "evaluate_seconds"]
    line = lines["train_seconds"]
    assert line.measured == pytest.approx(run.result["train_seconds"])
    assert line.error == pytest.approx((498 - line.measured) / line.measured)


def test_time_is_held_against_its_first_correction(tmp_path: Path) -> None:
    """A plan that was made beside other work says far too much; updates soon show it."""
    lines = [line for line in records(40) if line["kind"] != "event"]
    told = {
        "kind": "event", "event": "forecast", "why": "updates take 0.1 times as long as was foretold",
        "did": "expects less", "time": lines[0]["time"], "train_seconds_left": 5.0,
    }  # fmt: skip
    at = next(number for number, line in enumerate(lines) if line["kind"] == "update" and line["step"] == 3)
    lines[at + 1 : at + 1] = [told | {"step": 3}]
    lines.append(told | {"step": 40, "train_seconds_left": 0.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run = read_run(write_run(tmp_path / "run", files={"metrics.jsonl": text}))
    line = next(line for line in facts.compared(run) if line.name == "train_seconds")
    until = sum(each["seconds"] for each in lines if each["kind"] == "update" and each["step"] <= 3)
    assert line.predicted == pytest.approx(until + 5.0)
    page = render_report(run)
    assert "as it was corrected after update 3 (updates take 0.1 times as long as was foretold)" in page
    assert "the plan had said 8 min 18 s" in page


def test_without_a_list_the_choices_named_like_figures_are_the_predictions(tmp_path: Path) -> None:
    ended = result(records()) | {"predicted": None}
    files = {"result.json": ended, "plan.json": plan() | {"padding_share": choice(0.01, "", "derived", 0.01)}}
    lines = facts.compared(read_run(write_run(tmp_path / "run", files=files)))
    assert [line.name for line in lines] == ["train_seconds", "peak_memory_bytes", "padding_share"]
    assert all(line.measured is not None for line in lines)


def test_nothing_is_compared_while_a_run_goes_on(tmp_path: Path) -> None:
    lines = facts.compared(read_run(write_run(tmp_path / "run", finished=False)))
    assert [line.name for line in lines] == ["train_seconds", "peak_memory_bytes"]
    assert all(line.measured is None and line.error is None for line in lines)


def test_speed_counts_update_time_only(tmp_path: Path) -> None:
    text = _updates(batch_samples=256, batch_tokens=8000, seconds=4.0)
    run = read_run(write_run(tmp_path / "run", finished=False, files={"metrics.jsonl": text}))
    assert facts.per_second(run, "batch_samples") == 64
    assert facts.per_second(run, "batch_tokens") == 2000
    assert facts.train_seconds(run) == 16


def test_the_best_value_is_searched_while_a_run_goes_on(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", finished=False))
    best = facts.best(run)
    values = {record["step"]: record["f1_macro"] for record in run.evals if record["split"] == "validation"}
    assert best is not None
    assert (best.metric, best.value) == ("f1_macro", max(values.values()))
    assert values[best.step] == best.value


def test_the_best_loss_is_the_least(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", finished=False, files={"recipe.yaml": "best: loss\n"}))
    best = facts.best(run)
    assert best is not None and best.value == min(
        record["loss"] for record in run.evals if record["split"] == "validation"
    )


def test_final_metrics_put_the_test_split_first(tmp_path: Path) -> None:
    final = {"validation.b": {"accuracy": 0.5}, "test": {"accuracy": 0.7, "roc_auc_ovr": None}}
    files = {"result.json": result(records()) | {"final": final}}
    metrics = facts.final_metrics(read_run(write_run(tmp_path / "run", files=files)))
    assert next(iter(metrics)) == "test"
    assert metrics["test"] == {"accuracy": 0.7}


def test_plan_lines_show_any_choice(tmp_path: Path) -> None:
    strange = {
        "mesh": choice({"replicate": 2, "shard": 4}, "fits", "user"),
        "note": "no choice",
        "n": {"x": 1},
    }
    run = read_run(write_run(tmp_path / "run", files={"plan.json": plan() | strange}))
    lines = {line.name: line for line in facts.plan_lines(run)}
    assert lines["mesh"].value == "replicate 2, shard 4"
    assert lines["peak_memory_bytes"].value == "1.3 GiB" and lines["peak_memory_bytes"].prediction == ""
    assert (lines["train_seconds"].value, lines["train_seconds"].prediction) == ("8 min 18 s", "")
    assert (lines["micro_tokens"].value, lines["micro_tokens"].prediction) == ("2,048", "1,466 tokens/s")
    assert not {"note", "n", "warnings"} & set(lines)


def test_plan_warnings_are_read(tmp_path: Path) -> None:
    warned = plan() | {"warnings": choice(["fewer than 50 updates"], "", "derived")}
    assert facts.plan_warnings(read_run(write_run(tmp_path / "run", files={"plan.json": warned}))) == [
        "fewer than 50 updates"
    ]


def test_environment_is_flat_and_without_secrets() -> None:
    lines = dict(
        facts.flat_environment({"a": {"memory_bytes": 2**30, "api_key": "abc"}, "b": [1, 2], "c": None})
    )
    assert lines == {"a.memory_bytes": "1.0 GiB", "a.api_key": "[removed]", "b": "1, 2", "c": "–"}


def test_identifiers_have_no_thousands_separators() -> None:
    event = {"event": "nonfinite", "step": 3, "sample_ids": [812, 10431], "rows": 10431}
    assert facts.event_details(event) == "sample_ids 812, 10431, rows 10,431"

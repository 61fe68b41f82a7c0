from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bigbatch
from bigbatch.errors import UsageError
from bigbatch.report.read import read_run
from tests.report.fake_run import records, write_run


def test_a_finished_run_is_read_completely(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "tweets"))
    assert (run.name, run.state, run.problems) == ("tweets", "finished", ())
    assert isinstance(run.updates, pa.Table)
    assert run.updates.num_rows == 88
    assert run.updates["step"].to_pylist() == list(range(1, 89))
    assert run.updates["samples"].type == pa.int64()
    assert run.updates["loss.cross_entropy"].to_pylist() == run.updates["loss"].to_pylist()
    assert [record["split"] for record in run.evals] == ["validation"] * 8 + ["test"]
    assert [event["event"] for event in run.events] == ["nonfinite", "resumed"]
    assert run.result["updates"] == 88
    assert run.evaluation["test"]["labels"] == ["negative", "neutral", "positive"]


def test_a_nonfinite_update_is_null(tmp_path: Path) -> None:
    row = read_run(write_run(tmp_path / "run")).updates.to_pylist()[28]
    assert (row["loss"], row["grad_norm"], row["skipped"], row["nonfinite"]) == (None, None, True, True)


def test_a_run_that_goes_on_has_no_result_yet(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", finished=False))
    assert (run.state, run.result, run.evaluation, run.problems) == ("running", {}, {}, ())


def test_a_run_before_its_first_update_has_the_contracts_columns(tmp_path: Path) -> None:
    run = read_run(
        write_run(tmp_path / "run", finished=False, files={"metrics.jsonl": None, "plan.json": None})
    )
    assert run.updates.num_rows == 0
    assert {"step", "loss", "lr", "grad_norm", "padding_share", "skipped"} <= set(run.updates.column_names)


@settings(max_examples=40, deadline=None)
@given(part=st.floats(0, 1))
def test_a_journal_cut_anywhere_gives_the_complete_records(
    tmp_path_factory: pytest.TempPathFactory, part: float
) -> None:
    text = "".join(json.dumps(line) + "\n" for line in records(12, evaluate_every=4))
    cut = text[: int(len(text) * part)]
    run = read_run(write_run(tmp_path_factory.mktemp("cut"), finished=False, files={"metrics.jsonl": cut}))
    whole = cut.count("\n")
    found = run.updates.num_rows + len(run.evals) + len(run.events)
    assert found in (whole, whole + 1)  # one more when only the line's end is missing
    assert run.problems == ()


def test_a_broken_line_in_the_middle_is_said(tmp_path: Path) -> None:
    lines = [json.dumps(line) for line in records(5)]
    lines[2] = lines[2][:40]
    run = read_run(write_run(tmp_path / "run", files={"metrics.jsonl": "\n".join(lines) + "\n"}))
    assert len(run.problems) == 1
    assert run.problems[0].startswith("metrics.jsonl, line 3, is not valid JSON: ")


def test_documents_that_are_no_objects_are_said(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", files={"plan.json": "[1, 2]", "result.json": '{"best": {'}))
    assert run.plan == {} and run.result == {}
    first, second = sorted(run.problems)
    assert first == "plan.json holds a list; expected a JSON object."
    assert second.startswith("result.json is not valid JSON: ")


def test_columns_of_mixed_kinds_are_said(tmp_path: Path) -> None:
    lines = [line for line in records(3, evaluate_every=9) if line["kind"] == "update"]
    lines[0]["loss"] = "low"
    lines[1]["note"] = 3
    lines[2]["note"] = "x"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run = read_run(write_run(tmp_path / "run", files={"metrics.jsonl": text}))
    assert run.updates["step"].to_pylist() == [2, 3]  # a loss that is a word makes no record
    assert run.updates["note"].to_pylist() == ["3", "x"]
    assert run.problems == (
        "metrics.jsonl, line 1, has a wrong loss: input should be a valid number: it was left out.",
        "metrics.jsonl: the column note holds values of different kinds.",
    )


def test_what_is_no_run_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    write_run(tmp_path / "tweets")
    with pytest.raises(UsageError, match=r"did you mean .*tweets"):
        read_run(tmp_path / "tweet")
    with pytest.raises(UsageError, match="not a run directory"):
        read_run(tmp_path)


def test_reports_do_not_load_torch() -> None:
    code = "import sys, bigbatch.report.compare; print('torch' in sys.modules, 'transformers' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(bigbatch.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["False", "False"]

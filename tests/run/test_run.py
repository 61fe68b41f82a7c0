from __future__ import annotations

import os
import signal

import pytest

from bigbatch.run.run import Run
from bigbatch.store.directory import RunDirectory
from tests.jobs import HELD_OUT, document, events, exhaust, lines, start


def test_a_signal_leaves_at_the_boundary_and_the_same_start_goes_on(tmp_path):
    with start(tmp_path / "r", set={"updates": 6}) as run:
        for record in run:
            if record.kind == "update" and record.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
    assert run.status == "interrupted" and run.signal == signal.SIGTERM
    assert record.event == "interrupted" and "SIGTERM" in record.why
    assert document(tmp_path / "r", "status.json") | {"state": "interrupted", "update": 3} == document(
        tmp_path / "r", "status.json"
    )
    assert run.result is None and not (tmp_path / "r/model").exists()
    again = exhaust(start(tmp_path / "r", set={"updates": 6}))
    assert again.status == "finished" and again.result["updates"] == 6
    assert events(tmp_path / "r", "resumed")[0]["step"] == 3


def test_a_keyboard_interrupt_in_the_callers_code_is_an_interruption(tmp_path):
    with pytest.raises(KeyboardInterrupt), start(tmp_path / "r") as run:
        for _ in run:
            raise KeyboardInterrupt
    assert run.status == "interrupted" == document(tmp_path / "r", "status.json")["state"]
    assert exhaust(start(tmp_path / "r")).status == "finished"


def test_metrics_while_running_and_afterwards(tmp_path):
    keys = {"run.evaluate_every": "2 updates"}
    with start(tmp_path / "r", validation=HELD_OUT, set=keys) as run:
        for record in run:
            if record.kind == "eval":
                assert run.metrics["validation.loss"] == record.loss
                assert run.metrics["validation.accuracy"] == record["accuracy"]
    final = document(tmp_path / "r", "result.json")["final"]["validation"]
    assert run.metrics == {f"validation.{name}": value for name, value in final.items()}


def test_a_run_that_is_over_says_how_it_looks(tmp_path):
    exhaust(start(tmp_path / "r"))
    run = Run(RunDirectory(tmp_path / "r"))
    assert list(run) == [] and repr(run) == f"Run({str(tmp_path / 'r')!r}, status='finished')"
    assert run.plan.value("micro_tokens") == 64


def test_two_runs_cannot_share_a_directory(tmp_path):
    from bigbatch.errors import RunLocked

    with start(tmp_path / "r"), pytest.raises(RunLocked):
        start(tmp_path / "r")
    assert exhaust(start(tmp_path / "r")).status == "finished"


def test_a_run_left_without_an_update_can_be_started_again(tmp_path):
    with start(tmp_path / "r") as run:
        pass
    assert run.status == "interrupted"
    assert exhaust(start(tmp_path / "r")).status == "finished"
    assert [line["step"] for line in lines(tmp_path / "r", "update")] == [1, 2, 3, 4]

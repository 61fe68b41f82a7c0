"""`distributed_train`: live objects on two processes, and what is refused before anything starts."""

from __future__ import annotations

import inspect

import pytest
import torch

import bigbatch
from bigbatch.errors import UsageError
from tests.jobs import lines
from tests.models import tiny
from tests.tasks.test_computed import accuracy

ROWS = [{"input_ids": [2, 5 + number % 7, 6, 3], "labels": number % 3} for number in range(40)]
KEYS = {"updates": 2, "plan.micro_tokens": 64, "plan.threads": 1, "plan.compile": "off"}


@pytest.mark.parametrize(
    "asked",
    [{"nodes": []}, {"launcher": "slurm"}, {"launcher": "ssh"}, {"nodes": ["a"], "launcher": "local"}],
)
def test_what_does_not_fit_together_is_refused(asked, tmp_path):
    with pytest.raises(UsageError, match="expected auto, local without nodes, or ssh"):
        bigbatch.distributed_train(tiny(), ROWS, run_dir=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_one_process_is_train(tmp_path):
    run = bigbatch.distributed_train(
        tiny(), ROWS, ranks=1, batch_size=20, set=KEYS, run_dir=tmp_path / "run", nodes=["localhost"]
    )
    assert run.status == "finished" and (run.result or {})["updates"] == 2


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_processes_give_the_model_of_one(tmp_path):
    one, two = tiny(), tiny()
    bigbatch.train(one, ROWS, batch_size=20, set=KEYS, run_dir=tmp_path / "one")
    run = bigbatch.distributed_train(two, ROWS, ranks=2, batch_size=20, set=KEYS, run_dir=tmp_path / "two")
    assert run.status == "finished" and run.plan.value("ranks") == 2
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_the_usual_calls_go_along_and_a_pipe_moves_no_cursor(tmp_path, monkeypatch, capfd):
    """As from a notebook, which forces colours on whatever it starts: per device means per process."""
    from transformers import TrainingArguments

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-color")
    args = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        use_cpu=True,
        per_device_train_batch_size=5,
        max_steps=2,
        eval_on_start=True,
    )
    run = bigbatch.distributed_train(
        tiny(), ROWS, ROWS[:15], ranks=2, args=args, compute_metrics=accuracy, set={"plan.micro_tokens": 64}
    )
    assert run.plan.value("ranks") == 2
    assert [line["batch_samples"] for line in lines(run.path, "update")] == [10, 10]
    assert set(run.metrics) == {"validation.loss", "validation.right", "validation.rows"}
    assert run.metrics["validation.rows"] == 15, "the whole split, on every rank"
    shown = capfd.readouterr().err
    assert "update 2/2" in shown and shown.count("note: eval_on_start") == 1
    assert not [code for code in ("\x1b[?25", "\x1b[1A", "\x1b[2K", "\r") if code in shown]


def test_an_argument_that_does_not_exist_is_an_error_before_anything_starts():
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        bigbatch.distributed_train(tiny(), ROWS, ranks=2, batchsize=4)


def test_the_signature_is_the_contracts():
    parameters = list(inspect.signature(bigbatch.distributed_train).parameters)
    assert parameters == ["model", "train_dataset", "val_dataset", "nodes", "ranks", "launcher", "as_train"]
    assert "distributed_train" in dir(bigbatch)

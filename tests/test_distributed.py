"""`distributed_train`: live objects on two processes, and what is refused before anything starts."""

from __future__ import annotations

import inspect

import pytest
import torch

import bigbatch
from bigbatch.errors import UsageError
from tests.models import tiny

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


def test_the_signature_is_the_contracts():
    parameters = list(inspect.signature(bigbatch.distributed_train).parameters)
    assert parameters == ["model", "train_dataset", "val_dataset", "nodes", "ranks", "launcher", "as_train"]
    assert "distributed_train" in dir(bigbatch)

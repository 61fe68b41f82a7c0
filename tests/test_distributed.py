"""`distributed_train` has the contract's signature; what is not built yet is refused, never done on fewer processes."""

from __future__ import annotations

import inspect

import pytest

import bigbatch
from bigbatch.errors import UsageError
from tests.models import tiny

ROWS = [{"input_ids": [2, 5 + number % 7, 6, 3], "labels": number % 3} for number in range(40)]


@pytest.mark.parametrize(
    "asked",
    [{"nodes": ["a", "b"]}, {"nodes": ["elsewhere"]}, {"nodes": []}, {"ranks": 2}, {"launcher": "slurm"}],
)
def test_more_than_this_process_is_refused(asked, tmp_path):
    with pytest.raises(UsageError, match="planned, not built yet"):
        bigbatch.distributed_train(tiny(), ROWS, run_dir=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_one_process_is_train(tmp_path):
    keys = {"updates": 2, "plan.micro_tokens": 64, "plan.threads": 1}
    run = bigbatch.distributed_train(
        tiny(), ROWS, ranks=1, batch_size=20, set=keys, run_dir=tmp_path / "run", nodes=["localhost"]
    )
    assert run.status == "finished" and run.result["updates"] == 2


def test_the_signature_is_the_contracts():
    parameters = list(inspect.signature(bigbatch.distributed_train).parameters)
    assert parameters == ["model", "train_dataset", "val_dataset", "nodes", "ranks", "launcher", "as_train"]
    assert "distributed_train" in dir(bigbatch)

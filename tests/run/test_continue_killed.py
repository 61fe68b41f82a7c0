"""`--continue`, killed at each durable step of its start: the same recipe then goes on, whatever was on the disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.run.forks import Forks, Kill
from tests.run.jobs import Job, records, state, write_job

CHANGE = ("updates=6", "optimizer.lr=0.01")
CONTINUE = ("train", "recipe.yaml", *CHANGE, "--continue", "runs/job", "--allow", "updates,optimizer.lr")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, parent: Forks) -> Job:
    job = write_job(tmp_path_factory.mktemp("finished") / "job", model, updates=3)
    code, output = parent.run(job.folder, ("train", "recipe.yaml"))
    assert code == 0, output
    return job


@pytest.mark.parametrize(
    "about, when",
    [
        ("identity.json", "after"),
        ("recipe.yaml", "after"),
        pytest.param("environment.json", "after", marks=pytest.mark.slow),
        pytest.param("plan.json", "before", marks=pytest.mark.slow),
        pytest.param("plan.json", "after", marks=pytest.mark.slow),
        ("status.json", "before"),
        pytest.param("status.json", "after", marks=pytest.mark.slow),
    ],
)
def test_the_same_recipe_goes_on_after_a_kill(tmp_path, finished, parent, about, when):
    shutil.copytree(finished.folder, tmp_path / "job")
    job = Job(tmp_path / "job")
    kill = Kill(target="bigbatch.store.durable:FileOps.rename", about=f"/{about}", when=when)
    code, output = parent.run(job.folder, CONTINUE, kill)
    assert code == -9, output
    code, output = parent.run(job.folder, ("train", "recipe.yaml", *CHANGE))
    assert code == 0 and "nothing to do" not in output, output
    assert [record["step"] for record in records(job.run, "update")] == [1, 2, 3, 4, 5, 6]
    assert records(job.run, "event", event="carried_on")
    assert state(job.run) == "finished" and not (job.folder / "runs" / "job-2").exists()
    assert json.loads((job.run / "result.json").read_text())["updates"] == 6
    code, output = parent.run(job.folder, ("train", "recipe.yaml", *CHANGE))
    assert code == 0 and "nothing to do" in output, output

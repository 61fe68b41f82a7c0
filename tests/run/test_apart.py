"""Runs of replicas that train apart: killed and gone on, on another number of ranks, and what others see of them."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bigbatch
from bigbatch.build.inputs import Live
from bigbatch.errors import RecipeError, UsageError
from bigbatch.places import Place
from bigbatch.recipe.load import load_recipe
from bigbatch.run.start import Wishes, open_run
from bigbatch.store.checkpoints import list_checkpoints, read_checkpoint
from tests.run.forks import Forks, Kill
from tests.run.jobs import Job, outcome, records, state, write_job

TRAIN = ("train", "recipe.yaml")
BACKWARD = "bigbatch.step.executor:Plain.__call__"
AFTER_UPDATE = "bigbatch.store.progress:Progress.after_update"
SYNC = {"replicas": 3, "period": 4}
"""Checkpoints after 5, 10, 15, … updates lie between two meetings, evaluations after 8, 16, … at one."""


def keys(outer: str) -> dict[str, Any]:
    """Of a job: half as long as the others', since it computes three models."""
    return {"updates": 20, "sync": {**SYNC, "outer": outer}}


@pytest.fixture(scope="module", params=["average", "diloco"])
def outer(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, model: Path, parent: Forks, outer: str) -> Job:
    """What nobody disturbed."""
    job = write_job(tmp_path_factory.mktemp("straight") / "job", model, **keys(outer))
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    return job


def same(job: Job, straight: Job) -> None:
    found, expected = outcome(job.run), outcome(straight.run)
    assert {key: found[key] for key in expected if found[key] != expected[key]} == {}
    assert state(job.run) == "finished"


@pytest.mark.parametrize(
    "kill",
    [Kill(target=AFTER_UPDATE, nth=13), Kill(target=BACKWARD, nth=45, signal=signal.SIGTERM)],
    ids=["killed", "asked to leave"],
)
def test_the_same_command_goes_on_to_the_same_bits(tmp_path, model, parent, outer, straight, kill):
    job = write_job(tmp_path / "job", model, **keys(outer))
    code, output = parent.run(job.folder, TRAIN, kill)
    assert code in (-signal.SIGKILL, 143), output
    newest = read_checkpoint(list_checkpoints(job.run / "checkpoints")[-1])
    assert "replica-0002/exp_avg/classifier.weight" in newest.tensors
    assert ("outer/global/classifier.weight" in newest.tensors) == (outer == "diloco")
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    same(job, straight)


def left_at(world: Any, *, where: str, step: int) -> dict[str, Any]:
    """Train among ranks, and vanish once the checkpoint of a step is there."""
    import os

    os.chdir(where)
    place = Place(rank=world.rank, size=world.size, local_rank=world.rank, local_size=world.size)
    run = open_run(load_recipe(Path("recipe.yaml")), Live(), Wishes(world=world, place=place))
    for record in run:
        if record.kind == "event" and record["event"] == "checkpoint" and record.step == step:
            break
    world.barrier()
    return {"held": list(run._parts.strategy.replicas.meeting.held)}


@pytest.mark.world_size(2)
def test_saved_by_two_ranks_and_gone_on_by_one(tmp_path, model, parent, ranks, outer, straight):
    job = write_job(tmp_path / "job", model, **keys(outer))
    found = ranks.run("tests.run.test_apart:left_at", 2, tmp_path, where=str(job.folder), step=10)
    assert [each["held"] for each in found] == [[0], [1, 2]]
    assert list_checkpoints(job.run / "checkpoints")[-1].name == "step-000010"
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    same(job, straight)


def test_a_checkpoint_holds_the_mean_and_each_replica(straight, outer):
    """Of the newest checkpoint, after the last meeting; a mean of equal replicas needs no copies."""
    newest = read_checkpoint(list_checkpoints(straight.run / "checkpoints")[-1])
    assert not any(name.startswith("replica-0000/model/") for name in newest.tensors)
    assert newest.state["sync"]["met_at"] == 20 and newest.state["sync"]["meetings"] == 5
    loss = records(straight.run, "update")[-1]["loss"]
    assert loss < records(straight.run, "update")[0]["loss"]


def test_the_automatic_period_says_why_and_is_saved(tmp_path, model, monkeypatch):
    """Meetings that take a hundred seconds: as seldom as the drift allows."""
    job = write_job(
        tmp_path / "job", model, updates=12, sync={"period": "auto", "replicas": 2}, optimizer={"lr": 1e-3}
    )
    monkeypatch.chdir(job.folder)
    clock = itertools.count(step=100.0)
    monkeypatch.setattr("bigbatch.step.replicas.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    bigbatch.train(job.recipe)
    events = records(job.run, "event", event="sync_period")
    assert [(event["step"], event["period"]) for event in events][:3] == [(1, 2), (3, 4), (7, 8)]
    for event in events:
        assert "a meeting takes 100 s" in event["why"] and "apart" in event["why"]
        assert event["did"].startswith(f"replicas meet every {event['period']} updates")
        assert event["drift"] > 0 and event["meeting_seconds"] == 100.0 and event["update_seconds"] > 0
    saved = read_checkpoint(list_checkpoints(job.run / "checkpoints")[-1]).state["sync"]["decided"]
    assert [(each["update"], each["period"], each["drift"]) for each in saved] == [
        (event["step"], event["period"], event["drift"]) for event in events
    ]


def test_what_cannot_be_is_said_before_anything_starts(tmp_path, model):
    job = write_job(tmp_path / "job", model)
    for words, what in (
        (["sync.period=4"], "sync.period: 4 needs sync.replicas of 2 or more"),
        (["sync.replicas=19"], "sync.replicas: 19 cannot share batch.samples: 18"),
        (["sync.period=0", "sync.replicas=2"], "expected a whole number of updates from 1, or auto"),
    ):
        with pytest.raises(RecipeError, match=what):
            load_recipe(job.recipe, words)


@pytest.mark.world_size(3)
def test_more_ranks_than_replicas_are_refused_by_all(tmp_path, model, ranks):
    job = write_job(tmp_path / "job", model, sync={"replicas": 2})
    found = ranks.run("tests.run.test_apart:refused", 3, tmp_path, where=str(job.folder))
    assert all("sync.replicas: 2 cannot use 3 ranks" in text for text in found)


def refused(world: Any, *, where: str) -> str:
    import os

    os.chdir(where)
    place = Place(rank=world.rank, size=world.size, local_rank=world.rank, local_size=world.size)
    try:
        open_run(load_recipe(Path("recipe.yaml")), Live(), Wishes(world=world, place=place))
    except UsageError as error:
        return str(error)
    return "started"

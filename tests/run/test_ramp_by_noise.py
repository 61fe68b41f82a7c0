"""A batch that grows because the measured noise says so: measured gradients, interval, votes, the next batch.

Nothing is stubbed. What a size must be follows from the journal alone: once the lower end of the interval was at least
the next size twice in a row, the update after that has it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.run.forks import Forks, Kill
from tests.run.jobs import Job, outcome, records, write_job

SIZES, SAMPLES = (4, 8, 16), 320
TRAIN = ("train", "recipe.yaml")
SAVE = "bigbatch.store.keeper:Keeper.save"


def new_job(folder: Path, model: Path) -> Job:
    """Labels that hardly follow from the words, a small rate: the gradient is soon mostly noise."""
    job = write_job(
        folder,
        model,
        scale={"every": "1 updates"},
        optimizer={"lr": 1e-3, "base_batch": SIZES[0], "lr_rule": "sqrt"},
        schedule={"name": "constant", "warmup": 0},
        regularise={"dropout": 0},
        run={"evaluate_every": "never", "checkpoint_every": "1 updates", "keep": 1},
    )
    recipe = yaml.safe_load(job.recipe.read_text())
    del recipe["updates"], recipe["best"]
    recipe |= {"samples": SAMPLES, "batch": {"samples": SIZES[-1], "ramp": {"from": SIZES[0], "by": "noise"}}}
    job.recipe.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return job


def rule(job: Job) -> list[tuple[int, int]]:
    """(update, size from the next one on) by the rule, from the intervals in the journal."""
    stage, votes, found = 0, 0, []
    for record in records(job.run, "update"):
        low = record.get("noise_scale_low")
        if stage + 1 == len(SIZES):
            break
        votes = votes + 1 if low is not None and low >= SIZES[stage + 1] else 0
        if votes == 2:
            stage, votes = stage + 1, 0
            found.append((record["step"], SIZES[stage]))
    return found


def changes(job: Job) -> list[tuple[int, int]]:
    """(update, size) of the events."""
    return [
        (event["step"], event["samples"])
        for event in records(job.run, "event")
        if event["event"] == "batch_ramp"
    ]


def sizes(job: Job) -> list[int]:
    return [record["batch_samples"] for record in records(job.run, "update")]


@pytest.fixture(scope="module")
def straight(parent: Forks, model, tmp_path_factory) -> Job:
    """A run that nobody disturbs."""
    job = new_job(tmp_path_factory.mktemp("noise") / "job", model)
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    return job


def test_the_batch_grows_once_the_interval_says_so(straight):
    expected = rule(straight)
    assert expected, "the noise never passed the next size: this job shows nothing"
    assert changes(straight) == expected
    assert expected[0][0] > 30, "there is no interval before 30 measurements"
    marks = [0, *(step for step, _ in expected), len(sizes(straight))]
    wanted = [
        size for size, (begin, end) in zip(SIZES, pairwise(marks), strict=False) for _ in range(begin, end)
    ]
    assert sizes(straight)[:-1] == wanted[:-1]
    assert sum(sizes(straight)) == SAMPLES


def test_the_rate_follows_the_size(straight):
    for record in records(straight.run, "update")[:-1]:
        assert record["lr"] == pytest.approx(1e-3 * (record["batch_samples"] / 4) ** 0.5)


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(-1, id="between two votes"),
        pytest.param(0, id="as it grows", marks=pytest.mark.slow),
        pytest.param(1, id="behind it", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_makes_the_same_changes(parent, model, straight, tmp_path, later):
    """The votes and the averages are in the checkpoint: killed behind the save of an update around the first change."""
    job = new_job(tmp_path / "job", model)
    (grown, _), *_ = rule(straight)
    code, output = parent.run(job.folder, TRAIN, Kill(target=SAVE, nth=grown + later, when="after"))
    assert code == -9, output
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    [resumed] = [event for event in records(job.run, "event") if event["event"] == "resumed"]
    assert resumed["step"] == grown + later
    assert changes(job) == changes(straight)
    assert outcome(job.run) == outcome(straight.run)

"""Interrupted and going on: signals, damaged checkpoints, the samples, the frozen plan, more epochs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bigbatch
import bigbatch.build.measure
from bigbatch.data.order import SampleOrder
from bigbatch.errors import CheckpointError
from bigbatch.store.checkpoints import list_checkpoints, read_checkpoint
from bigbatch.store.journal import read_records
from tests.run.forks import Forks, Kill
from tests.run.jobs import (
    BATCH,
    UPDATES,
    Job,
    leftovers,
    outcome,
    records,
    state,
    write_job,
)

TRAIN = ("train", "recipe.yaml")
BACKWARD = "bigbatch.step.executor:Plain.__call__"
AFTER_UPDATE = "bigbatch.store.progress:Progress.after_update"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, model: Path, parent: Forks) -> dict[str, Any]:
    """What nobody disturbed."""
    job = write_job(tmp_path_factory.mktemp("straight") / "job", model)
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    return outcome(job.run)


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory, model: Path, parent: Forks) -> Job:
    """A job that was killed in update 18, with checkpoints of the last updates that had one, and of the best so far."""
    job = write_job(tmp_path_factory.mktemp("broken") / "job", model)
    code, output = parent.run(job.folder, TRAIN, Kill(target=AFTER_UPDATE, nth=18))
    assert code == -signal.SIGKILL, output
    return job


@pytest.fixture
def job(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    found = write_job(tmp_path / "job", model)
    monkeypatch.chdir(found.folder)
    return found


@pytest.fixture
def broken(tmp_path: Path, broken_off: Job) -> Job:
    """A copy of it."""
    shutil.copytree(broken_off.folder, tmp_path / "broken")
    return Job(tmp_path / "broken")


def assert_same(job: Job, straight: dict[str, Any]) -> None:
    found = outcome(job.run)
    assert {key: found[key] for key in straight if found[key] != straight[key]} == {}
    assert found["steps"] == list(range(1, UPDATES + 1))
    assert (state(job.run), leftovers(job.run)) == ("finished", [])


def go_on(parent: Forks, job: Job) -> str:
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    return output


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_drops_the_half_done_update_and_the_same_command_goes_on(
    parent, job, straight, number, code
):
    kill = Kill(target=BACKWARD, nth=40, signal=number)
    child = parent.start(job.folder, TRAIN, kill)
    assert child.wait() == code, child.output
    assert state(job.run) == "interrupted"
    done = records(job.run, "update")[-1]["step"]
    newest = list_checkpoints(job.run / "checkpoints")[-1]
    assert newest.name == f"step-{done:06d}" and done % 5 and done % 8, (
        "a boundary that only the signal saved"
    )
    assert read_checkpoint(newest).state["progress"]["position"] == done * BATCH
    event = records(job.run, "event", event="interrupted")[-1]
    assert (event["step"], event["why"]) == (done, f"{signal.Signals(number).name} was received")
    assert "the same command goes on" in child.output
    go_on(parent, job)
    assert_same(job, straight)
    assert records(job.run, "event", event="resumed")[-1]["step"] == done
    assert records(job.run, "event", event="interrupted") == [event]


def test_a_signal_to_the_real_command_line(job, straight):
    process = job.started()
    while process.poll() is None and not (job.run / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143, output
    assert state(job.run) == "interrupted"
    done = job.command()
    assert done.code == 0, done.output
    assert_same(job, straight)


@pytest.fixture(scope="module")
def left_after(tmp_path_factory: pytest.TempPathFactory, model: Path, parent: Forks) -> int:
    """The last whole update of a job that is asked to leave in its fortieth backward pass."""
    job = write_job(tmp_path_factory.mktemp("left") / "job", model)
    parent.run(job.folder, TRAIN, Kill(target=BACKWARD, nth=40, signal=signal.SIGTERM))
    return records(job.run, "event", event="interrupted")[-1]["step"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_exits_at_once(parent, job, straight, left_after, number, code):
    """It comes in the middle of the save that the first one caused."""
    first = Kill(target=BACKWARD, nth=40, signal=number)
    saved = f"step-{left_after:06d}"
    second = Kill(target="bigbatch.store.saving:_publish", about=saved, signal=number)
    count, _ = parent.run(job.folder, TRAIN, first, second)
    assert count == code
    assert any(path.name.startswith(".tmp-step-") for path in (job.run / "checkpoints").iterdir())
    assert state(job.run) == "running"
    output = go_on(parent, job)
    assert "took over the lock" in output
    assert_same(job, straight)


def test_a_signal_during_the_final_evaluation(parent, job, straight):
    kill = Kill(
        target="bigbatch.run.between:Between.evaluate_split",
        about="test",
        when="before",
        signal=signal.SIGTERM,
    )
    code, output = parent.run(job.folder, TRAIN, kill)
    assert code == 143, output
    go_on(parent, job)
    assert_same(job, straight)


def test_leaving_the_records_early_gives_the_signals_back(job):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with bigbatch.start(job.recipe) as run:
        for record in run:
            if record.step == 2:
                break
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert (run.status, state(job.run)) == ("interrupted", "interrupted")
    assert list_checkpoints(job.run / "checkpoints")[-1].name == "step-000002"


# ---------------------------------------------------------------- damaged checkpoints


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "tensors-00001.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def flip(checkpoint: Path) -> None:
    path = checkpoint / "tensors-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def lose_state(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


def lose_index(checkpoint: Path) -> None:
    (checkpoint / "index.json").unlink()


@pytest.mark.parametrize(
    "damage, said",
    [
        (truncate, r"tensors-00001.safetensors has [\d,]+ bytes instead of"),
        (flip, "tensors-00001.safetensors: the checksum of .* does not match"),
        (lose_state, "incomplete: state.json is missing"),
        (lose_index, "incomplete: index.json is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_older_one_goes_on(parent, broken, straight, damage, said):
    older, newest = list_checkpoints(broken.run / "checkpoints")[-2:]
    lost = int(newest.name[-6:]) - int(older.name[-6:])
    written = len(list(read_records(broken.run / "metrics.jsonl")))
    damage(newest)
    go_on(parent, broken)
    event = records(broken.run, "event", event="resumed")[-1]
    words = "1 update is" if lost == 1 else f"{lost} updates are"
    assert re.search(f"checkpoint {newest.name} rejected: {said}", event["why"])
    assert f"falling back to checkpoint {older.name}: {words} lost and done again" in event["why"]
    assert event["step"] == int(older.name[-6:])
    moved = list(read_records(broken.run / "metrics.lost-1.jsonl"))
    assert len(moved) == event["records_moved"] < written
    assert [record["step"] for record in moved if record["kind"] == "update"] == list(
        range(event["step"] + 1, 18)
    )
    assert_same(broken, straight)


def test_without_any_complete_checkpoint_the_run_begins_anew_and_says_so(parent, broken, straight):
    saved = list_checkpoints(broken.run / "checkpoints")
    newest = int(saved[-1].name[-6:])
    for path in saved:
        flip(path)
    go_on(parent, broken)
    event = records(broken.run, "event", event="resumed")[-1]
    assert event["step"] == 0
    assert f"no complete checkpoint is left: {newest} updates are lost" in event["why"]
    assert_same(broken, straight)


def test_records_that_are_gone_are_not_counted(parent, broken):
    """Else a resume after another kill would look for the end of its records behind the end of the file."""
    (broken.run / "metrics.jsonl").unlink()
    (broken.run / "metrics.jsonl").mkdir()
    code, output = parent.run(broken.folder, TRAIN, Kill(target=AFTER_UPDATE, nth=1))
    assert code == -signal.SIGKILL and "metrics.jsonl is not a plain file" in output
    newest = list_checkpoints(broken.run / "checkpoints")[-1]
    counted = json.loads((newest / "state.json").read_text())["progress"]["journal_records"]
    lines = [json.loads(line) for line in (broken.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines[:counted]] == ["resumed", "damaged"]
    assert lines[counted]["event"] == "checkpoint" and "are gone" in lines[counted]["why"]
    go_on(parent, broken)
    steps = [record["step"] for record in records(broken.run, "update")]
    assert steps == list(range(steps[0], UPDATES + 1))
    evaluations = [(record["step"], record["split"]) for record in records(broken.run, "eval")]
    assert len(evaluations) == len(set(evaluations))


def test_a_checkpoint_of_another_run_is_refused(parent, broken, broken_off, job):
    code, _ = parent.run(job.folder, TRAIN, Kill(target=AFTER_UPDATE, nth=30))
    assert code == -signal.SIGKILL
    foreign = list_checkpoints(job.run / "checkpoints")[-1]
    shutil.copytree(foreign, broken.run / "checkpoints" / foreign.name)
    code, output = parent.run(broken.folder, TRAIN)
    assert code == CheckpointError.exit_code == 6
    assert "was written by another run" in output and "two runs were mixed" in output


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("crash", [False, True], ids=["left", "crashed"])
def test_no_sample_is_repeated_or_skipped(job, crash):
    """Stopped within the first epoch, and again within the second: each epoch has every sample once."""
    ledger: dict[int, list[int]] = {}
    begun = [trained_until(job, last, ledger, crash=crash) for last in (7, 23, None)]
    assert begun == ([0, 5, 20] if crash else [0, 7, 23])
    assert sorted(ledger) == list(range(1, UPDATES + 1))
    stream = [row for update in sorted(ledger) for row in ledger[update]]
    assert len(stream) == UPDATES * BATCH
    epochs = [stream[:320], stream[320:640], stream[640:]]
    assert [len(set(epoch)) for epoch in epochs] == [320, 320, UPDATES * BATCH - 640]
    np.testing.assert_array_equal(stream, SampleOrder(320, seed=0).ids(0, len(stream)))


class Crash(Exception):
    """Something of the caller's own."""


def trained_until(job: Job, last: int | None, ledger: dict[int, list[int]], *, crash: bool) -> int:
    """Train up to an update and leave; returns after which one it began.

    `ledger` gets the samples of each update, as they were consumed last.
    """
    first: list[int] = []
    try:
        with bigbatch.start(job.recipe) as run:
            assert run._parts is not None
            batches, original = run._parts.batches, run._parts.batches.at

            def at(position: int, update: int, samples: int | None = None) -> Any:
                batch = original(position, update, samples)
                ledger[update] = batch.sample_ids_B.tolist()
                first.append(update)
                return batch

            batches.at = at  # type: ignore[method-assign]
            for record in run:
                if record.kind == "update" and record.step == last:
                    if crash:
                        raise Crash
                    break
    except Crash:
        pass
    return first[0] - 1


# ---------------------------------------------------------------- the frozen plan


def measured_as(micro_tokens: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let calibration choose this size; counts how often it is asked."""
    asked: list[int] = []
    original = bigbatch.build.measure.calibrate_one

    def calibrate(*args: Any, **kwargs: Any) -> Any:
        asked.append(micro_tokens)
        found = original(*args, **kwargs)
        return replace(found, micro_tokens=micro_tokens, evaluation_micro_tokens=micro_tokens)

    monkeypatch.setattr(bigbatch.build.measure, "calibrate_one", calibrate)
    return asked


def test_a_resume_keeps_the_plan_even_if_the_machine_would_choose_another(job, straight, monkeypatch):
    job.change(plan={"micro_tokens": None})
    asked = measured_as(96, monkeypatch)
    with bigbatch.start(job.recipe) as run:
        for record in run:
            if record.step == 13:
                break
    plan = (job.run / "plan.json").read_bytes()
    assert asked == [96] and run.plan.value("micro_tokens") == 96
    monkeypatch.undo()
    monkeypatch.chdir(job.folder)
    asked = measured_as(48, monkeypatch)
    run = bigbatch.train(job.recipe)
    assert asked == [] and run.plan.value("micro_tokens") == 96
    assert (job.run / "plan.json").read_bytes() == plan
    assert_same(job, straight)


def test_another_plan_in_the_recipe_is_named_and_left_for_a_new_run(parent, broken, straight):
    broken.change(plan={"micro_tokens": 48})
    output = go_on(parent, broken)
    assert "plan.micro_tokens: the run keeps 96 of its plan.json; 48 is for a new run" in output
    assert_same(broken, straight)


# ---------------------------------------------------------------- asked to stop


def test_a_stop_survives_a_kill(job, parent):
    (job.folder / "watch.py").write_text(
        "from bigbatch.records import Stop\n"
        "def enough(record):\n"
        "    return Stop('enough') if record.kind == 'update' and record.step == 10 else None\n"
    )
    job.change(observers=["watch.py:enough"])
    code, output = parent.run(job.folder, TRAIN, Kill(target="bigbatch.run.finish:save_model"))
    assert code == -signal.SIGKILL, output
    go_on(parent, job)
    result = json.loads((job.run / "result.json").read_text())
    assert (result["exit_reason"], result["updates"]) == ("enough", 10)
    assert [record["step"] for record in records(job.run, "update")] == list(range(1, 11))


# ---------------------------------------------------------------- dropout is on, or none of this shows anything


def test_dropout_changes_the_first_loss(parent, job, straight):
    job.change(regularise={"dropout": 0.0})
    code, output = parent.run(job.folder, TRAIN, Kill(target=AFTER_UPDATE, nth=2))
    assert code == -signal.SIGKILL, output
    assert records(job.run, "update")[0]["loss"].hex() != straight["loss"][0]

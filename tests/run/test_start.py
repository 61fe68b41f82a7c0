"""What `train` does with a directory: start, go on, recognise, keep apart, refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest

import bigbatch
import bigbatch.build.build
from bigbatch.errors import DiskError, RunLocked
from bigbatch.store.checkpoints import list_checkpoints
from bigbatch.store.directory import RunDirectory
from bigbatch.store.lock import RunLock
from tests.run.forks import Forks, Kill
from tests.run.jobs import (
    Job,
    file_hash,
    folder_hash,
    leftovers,
    records,
    state,
    write_job,
)

TRAIN = ("train", "recipe.yaml")
AFTER_UPDATE = "bigbatch.store.progress:Progress.after_update"


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory, model: Path, parent: Forks) -> Job:
    job = write_job(tmp_path_factory.mktemp("finished") / "job", model, updates=12)
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    return job


@pytest.fixture
def finished(tmp_path: Path, finished_once: Job) -> Job:
    """A copy of a job of 12 updates that has finished."""
    shutil.copytree(finished_once.folder, tmp_path / "finished")
    return Job(tmp_path / "finished")


@pytest.fixture
def job(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    found = write_job(tmp_path / "job", model, updates=12)
    monkeypatch.chdir(found.folder)
    return found


def second(job: Job) -> Path:
    return job.run.with_name("job-2")


# ---------------------------------------------------------------- the same again


def test_the_same_command_on_a_finished_run_says_so_and_changes_nothing(parent, finished):
    before = folder_hash(finished.run)
    code, output = parent.run(finished.folder, TRAIN)
    assert code == 0
    assert "runs/job has finished with this recipe and this data: nothing to do" in output
    assert folder_hash(finished.run) == before
    assert [path.name for path in finished.run.parent.iterdir() if path.name != ".cache"] == ["job"]


def test_a_missing_report_is_written(parent, finished):
    report = finished.run / "report.html"
    report.unlink()
    (finished.run / ".report.html.abc").write_text("half of it")
    before = folder_hash(finished.run)
    del before[".report.html.abc"]
    code, output = parent.run(finished.folder, TRAIN)
    assert (code, "nothing to do" in output) == (0, True)
    after = folder_hash(finished.run)
    assert report.stat().st_size > 10_000 and "report.html" in after
    assert {name: value for name, value in after.items() if name != "report.html"} == {
        **before,
        **guard(after),
    }


@pytest.mark.parametrize("words", [(), ("--resume",)])
def test_moved_data_and_another_plan_are_still_the_same_run(parent, finished, words):
    (finished.folder / "train.csv").rename(finished.folder / "moved.csv")
    finished.change(
        data={"train": "moved.csv"}, plan={"micro_tokens": 64}, run={"keep": 3}, guard={"patience": 9}
    )
    code, output = parent.run(finished.folder, (*TRAIN, *words))
    assert code == 0 and "nothing to do" in output


# ---------------------------------------------------------------- another what


def test_another_recipe_goes_to_its_neighbour_and_prints_the_difference(parent, finished):
    before = folder_hash(finished.run)
    code, output = parent.run(finished.folder, (*TRAIN, "optimizer.lr=0.001"))
    assert code == 0, output
    assert "runs/job holds another run (optimizer.lr: 0.02 -> 0.001); this one goes to" in output
    assert folder_hash(finished.run) == before
    assert state(second(finished)) == "finished"
    assert len(records(second(finished), "update")) == 12
    mtime = folder_hash(second(finished))
    code, output = parent.run(finished.folder, (*TRAIN, "optimizer.lr=0.001"))
    assert code == 0 and "this one is in" in output and "job-2 has finished" in output
    assert folder_hash(second(finished)) == mtime


def test_a_neighbour_is_gone_on_with_too(parent, finished):
    words = (*TRAIN, "optimizer.lr=0.001")
    code, output = parent.run(finished.folder, words, Kill(target=AFTER_UPDATE, nth=7))
    assert code == -signal.SIGKILL, output
    code, output = parent.run(finished.folder, words)
    assert code == 0 and "this one is in" in output
    assert [record["step"] for record in records(second(finished), "update")] == list(range(1, 13))
    resumed = records(second(finished), "event", event="resumed")
    assert [(event["step"], event["why"]) for event in resumed] == [(5, "the run had been interrupted")]
    assert not second(finished).with_name("job-3").exists()


def test_changed_data_is_another_run(parent, finished):
    with (finished.folder / "train.csv").open("a") as file:
        file.write("a late flight,negative\n")
    code, output = parent.run(finished.folder, TRAIN, Kill(target=AFTER_UPDATE, nth=1))
    assert code == -signal.SIGKILL
    assert "runs/job holds another run (data.contents.rows: " in output


def test_resume_insists(parent, finished, job):
    code, output = parent.run(finished.folder, (*TRAIN, "--resume", "optimizer.lr=0.001"))
    assert code == 2 and "--resume: " in output and "optimizer.lr: 0.02 -> 0.001" in output
    assert not second(finished).exists()
    code, output = parent.run(job.folder, (*TRAIN, "--resume"))
    assert code == 2 and "there is no run in" in output
    assert not job.run.exists()


# ---------------------------------------------------------------- carrying on on purpose


def test_more_updates_are_another_run_unless_it_is_carried_on(parent, finished):
    code, output = parent.run(finished.folder, (*TRAIN, "updates=20"), Kill(target=AFTER_UPDATE, nth=1))
    assert code == -signal.SIGKILL
    assert "(updates: 12 -> 20)" in output and state(second(finished)) == "running"
    assert len(records(finished.run, "update")) == 12


def test_carrying_on_says_what_it_does_to_the_schedule(parent, finished):
    words = (*TRAIN, "updates=20", "optimizer.lr=0.01", "--continue", "runs/job", "--allow")
    code, output = parent.run(finished.folder, (*words, "updates"))
    assert code == 2 and "optimizer.lr: 0.02 -> 0.01" in output
    assert "--allow updates,optimizer.lr" in output
    assert len(records(finished.run, "update")) == 12
    code, output = parent.run(finished.folder, (*words, "updates,optimizer.lr"))
    assert code == 0, output
    event = records(finished.run, "event", event="carried_on")[-1]
    assert event["step"] == 12 and event["why"] == "optimizer.lr: 0.02 -> 0.01; updates: 12 -> 20"
    updates = records(finished.run, "update")
    assert [record["step"] for record in updates] == list(range(1, 21))
    # 10 % of 20 updates warm up, then straight down to 0 at the end of update 20; the middle of update 13.
    assert updates[12]["lr"] == pytest.approx(0.01 * (20 - 12.5) / 18)
    said = "the schedule linear is laid anew over all 20 updates"
    assert said in event["did"] and f"update 13 has lr {updates[12]['lr']:.6g}" in event["did"]
    assert said in output
    assert json.loads((finished.run / "result.json").read_text())["updates"] == 20
    assert json.loads((finished.run / "plan.json").read_text())["updates"]["value"] == 20
    code, output = parent.run(finished.folder, (*TRAIN, "updates=20", "optimizer.lr=0.01"))
    assert code == 0 and "nothing to do" in output


def test_a_report_of_the_time_before_does_not_pass_for_the_new_one(parent, finished):
    words = (*TRAIN, "updates=20")
    carry = ("--continue", "runs/job", "--allow", "updates")
    kill = Kill(target="bigbatch.report.html:render_report")
    assert parent.run(finished.folder, (*words, *carry), kill)[0] == -signal.SIGKILL
    assert state(finished.run) == "finished"
    code, output = parent.run(finished.folder, words)
    assert code == 0 and "nothing to do" in output
    assert "20 updates" in (finished.run / "report.html").read_text()


def test_what_was_carried_on_is_not_forgotten_by_a_kill(parent, finished):
    words = (*TRAIN, "updates=20")
    carry = ("--continue", "runs/job", "--allow", "updates")
    code, output = parent.run(finished.folder, (*words, *carry), Kill(target=AFTER_UPDATE, nth=2))
    assert code == -signal.SIGKILL, output
    code, output = parent.run(finished.folder, words)
    assert code == 0, output
    assert [event["step"] for event in records(finished.run, "event", event="carried_on")] == [12]
    assert [record["step"] for record in records(finished.run, "update")] == list(range(1, 21))


# ---------------------------------------------------------------- locks


def test_a_live_lock_is_refused_before_anything_is_loaded(parent, job):
    with RunLock(job.run):
        before = folder_hash(job.run)
        code, output = parent.run(job.folder, TRAIN)
        assert code == RunLocked.exit_code == 6
        assert f"is in use by process {os.getpid()} on" in output
        assert "loading" not in output
        assert {**folder_hash(job.run), **guard(before)} == before
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0 and "took over" not in output


def guard(hashes: dict[str, str]) -> dict[str, str]:
    """The empty file that looking at the lock touches."""
    return {".lock-guard": hashes[".lock-guard"]}


def test_the_lock_of_a_killed_process_is_taken_over_and_said(parent, job):
    assert parent.run(job.folder, TRAIN, Kill(target=AFTER_UPDATE, nth=7))[0] == -signal.SIGKILL
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0 and "took over the lock of process" in output and "that process is gone" in output
    assert not (job.run / "lock.json").exists()


def test_whoever_lost_the_directory_leaves_it_alone(job):
    """Another process took it over while this one was suspended, say."""
    with pytest.raises(RunLocked), bigbatch.start(job.recipe) as run:
        for record in run:
            if record.step == 2 and record.kind == "update":
                RunDirectory(job.run).write_status("running", 99)
                run._between._check = lost  # type: ignore[union-attr]
    assert run.status == "failed"
    assert RunDirectory(job.run).read_status().update == 99  # type: ignore[union-attr]
    assert list_checkpoints(job.run / "checkpoints") == []


def lost() -> None:
    raise RunLocked("taken over")


# ---------------------------------------------------------------- the disk


def test_a_directory_that_cannot_be_written_is_refused(parent, job):
    (job.folder / "runs").write_text("a file where a folder should be")
    code, output = parent.run(job.folder, TRAIN)
    assert code == DiskError.exit_code == 6 and "cannot write" in output, output
    assert (job.folder / "runs").read_text() == "a file where a folder should be"


Usage = namedtuple("Usage", "total used free")


def free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """Let the disk have this much room."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - free_bytes, free_bytes))


def test_too_small_a_disk_is_refused_before_anything_is_written(job, monkeypatch):
    monkeypatch.setattr(bigbatch.run.start, "build", pytest.fail)
    free(monkeypatch, 100_000)
    with pytest.raises(DiskError, match=r"too small: the run needs .* \([\d,]+ bytes\), 97.7 KiB"):
        bigbatch.train(job.recipe)
    assert sorted(path.name for path in job.folder.iterdir()) == ["recipe.yaml", "test.csv", "train.csv"]


def test_a_resume_needs_no_room_for_what_it_holds(job, monkeypatch):
    with bigbatch.start(job.recipe) as run:
        for record in run:
            if record.step == 7:
                break
    held = sum(path.stat().st_size for path in job.run.rglob("*.safetensors"))
    needed: list[int] = []
    original = RunDirectory.preflight
    monkeypatch.setattr(
        RunDirectory, "preflight", lambda self, size: (needed.append(size), original(self, size))[1]
    )
    free(monkeypatch, 10**9)
    with bigbatch.start(job.recipe):
        pass
    free(monkeypatch, max(needed) - held)
    assert bigbatch.train(job.recipe).status == "finished"
    free(monkeypatch, max(needed) // 4)
    with pytest.raises(DiskError):
        bigbatch.train(job.recipe, set={"optimizer.lr": 0.5})
    assert not second(job).exists()


# ---------------------------------------------------------------- odds and ends


def test_what_a_kill_left_is_cleaned_away(parent, job):
    assert parent.run(job.folder, TRAIN, Kill(target=AFTER_UPDATE, nth=7))[0] == -signal.SIGKILL
    for name in (".tmp-status.json", ".report.html.abc", ".tmp-preflight-1"):
        (job.run / name).write_text("half")
    (job.run / ".model.new-1").mkdir()
    (job.run / ".model.new-1" / "config.json").write_text("half")
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    assert leftovers(job.run) == []


def test_figures_that_are_not_numbers_do_not_stop_a_save(job):
    (job.folder / "figure.py").write_text("def odd(predictions, targets):\n    return float('nan')\n")
    job.change(metrics=["figure.py:odd", "f1_macro"])
    run = bigbatch.train(job.recipe)
    assert run.status == "finished"
    assert run.result is not None and run.result["final"]["test"]["odd"] is None


def test_two_runs_of_one_recipe_are_one_anothers_bits(finished_once, parent, tmp_path, model):
    other = write_job(tmp_path / "other", model, updates=12)
    assert parent.run(other.folder, TRAIN)[0] == 0
    weights = [file_hash(job.run / "model" / "model.safetensors") for job in (finished_once, other)]
    assert weights[0] == weights[1]


def test_a_start_that_fails_leaves_no_directory(parent, job):
    job.change(model=str(job.folder / "nothing"))
    code, output = parent.run(job.folder, TRAIN)
    assert code == 2, output
    assert not (job.folder / "runs" / "job").exists()

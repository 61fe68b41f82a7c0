"""`--slurm` on a real Slurm with two nodes: in an allocation, in a step, as a batch job that is ended and goes on."""

from __future__ import annotations

import sys
import time

import pytest

from tests.cluster.watching import losses, records, saved, status, steps, wait_for_update
from tools.cluster.network import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.world_size(2)]

TRAIN = [sys.executable, "-m", "bigbatch", "train", "recipe.yaml"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, model):
    """Losses of six updates in one process."""
    from tests.cluster.conftest import LONG
    from tests.run.jobs import write_job

    job = write_job(tmp_path_factory.mktemp("alone") / "job", model, **LONG)
    done = job.command("updates=6")
    assert done.code == 0, done.output
    return losses(job.run)


@pytest.mark.parametrize("command", [["salloc", "--nodes=2"], ["srun", "--nodes=2", "--ntasks=2"]])
def test_in_an_allocation_and_in_a_step_it_computes_what_one_process_does(
    slurm, job, environ, command, one_process
):
    done = slurm.call([*command, *TRAIN, "--slurm", "updates=6"], cwd=job.folder, env=environ, seconds=180)
    assert done.returncode == 0, done.stderr
    assert steps(job.run) == [1, 2, 3, 4, 5, 6]
    assert losses(job.run) == pytest.approx(one_process, rel=1e-5)


def test_a_wrong_recipe_is_2_before_anything_is_submitted(slurm, job, environ):
    done = slurm.call([*TRAIN, "--slurm", "--submit", "optimizer.lrr=1"], cwd=job.folder, env=environ)
    assert done.returncode == 2 and "did you mean optimizer.lr" in done.stderr
    assert slurm.call(["squeue", "--noheader"]).stdout == ""


def test_outside_an_allocation_it_says_what_to_do(slurm, job, environ):
    done = slurm.call([*TRAIN, "--slurm"], cwd=job.folder, env=environ)
    assert done.returncode == 2 and "--slurm --submit" in done.stderr


def test_an_unknown_partition_is_6_with_slurms_own_words(slurm, job, environ):
    words = [*TRAIN, "--slurm", "--submit", "launch.slurm.partition=gold"]
    done = slurm.call(words, cwd=job.folder, env=environ)
    assert done.returncode == 6 and "sbatch refused" in done.stderr and "partition" in done.stderr


def submitted(slurm, job, environ, *changes):
    words = [*TRAIN, "--slurm", "--submit", "launch.slurm.nodes=2", "launch.slurm.time=00:10:00", *changes]
    done = slurm.call(words, cwd=job.folder, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stderr.partition("submitted job ")[2].partition(";")[0]


def told(job, number):
    return (job.folder / f"slurm-{number}.out").read_text()


def test_a_cancelled_job_has_saved_and_stays_ended(slurm, job, environ, measured):
    number = submitted(slurm, job, environ)
    wait_for_update(job.run, 5)
    slurm.call(["scancel", number])
    seconds = wait_for(lambda: status(job.run)["state"] == "interrupted", "the save", seconds=40)
    assert saved(job.run)[-1] == steps(job.run)[-1], told(job, number)
    wait_for(lambda: slurm.call(["squeue", "--noheader"]).stdout == "", "the job's end", seconds=60)
    assert slurm.state(number) == "CANCELLED"
    measured("Slurm: scancel", f"saved after {seconds:.1f} s", "nothing")


def test_a_job_that_is_told_to_end_goes_back_into_the_queue_and_resumes(slurm, job, environ, measured):
    number = submitted(slurm, job, environ)
    wait_for_update(job.run, 5)
    slurm.call(["scancel", "--signal=TERM", number])
    seconds = wait_for(lambda: slurm.state(number) == "PENDING", "the requeue", seconds=60)
    assert saved(job.run)[-1:] == steps(job.run)[-1:], told(job, number)
    assert len(steps(job.run)) < 400
    # Slurm lets a requeued job wait for two minutes. A node that has just ended a job refuses its number for a moment.
    time.sleep(20)
    slurm.call(["scontrol", "update", f"JobId={number}", "StartTime=now"])
    wait_for(lambda: slurm.state(number) in ("COMPLETED", "FAILED"), "the job's end", seconds=240)
    why = slurm.call(["scontrol", "show", "job", number]).stdout
    assert slurm.state(number) == "COMPLETED", told(job, number) + why
    assert status(job.run)["state"] == "finished" and steps(job.run) == list(range(1, 401))
    assert "back into the queue" in told(job, number)
    resumed = [record for record in records(job.run) if record.get("event") == "resumed"]
    assert len(resumed) == 1, [record for record in records(job.run) if record["kind"] == "event"]
    measured("Slurm: TERM, as before the time limit", f"saved and requeued after {seconds:.1f} s", "nothing")


def test_the_time_limit_is_seen_coming(slurm, job, environ, measured):
    """A job of one minute, 10 s of grace: TERM comes 40 s before the end, or up to a minute sooner."""
    job.change(updates=4000)
    changes = ("launch.slurm.time=00:02:00", "launch.grace=10 s", "launch.max_requeues=0")
    number = submitted(slurm, job, environ, *changes)
    wait_for(lambda: slurm.state(number) not in ("PENDING", "RUNNING", "COMPLETING"), "the end", seconds=200)
    assert slurm.state(number) == "FAILED", told(job, number)  # exit code 143, and no requeue is allowed
    assert status(job.run)["state"] == "interrupted" and saved(job.run)[-1] == steps(job.run)[-1]
    measured("Slurm: time limit", "before it comes", "nothing")

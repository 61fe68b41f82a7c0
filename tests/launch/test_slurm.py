"""What is read from Slurm's variables and said to srun; the real thing is in tests/cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from bigbatch.errors import MachineError, UsageError
from bigbatch.launch import slurm, slurm_step
from bigbatch.launch.address import address_towards, interface_of, kept_to
from bigbatch.launch.place import place_of
from bigbatch.launch.slurm_node import node_words, own_address
from bigbatch.parallel.meeting import joined
from bigbatch.recipe.load import load_recipe

TASK = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n[3-4]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder for stand-ins of Slurm's commands, and nothing else on the path but the shell."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def add(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return add


def recipe(**keys):
    return load_recipe(
        {"model": "m", "task": "classify", "data": {"train": "a.csv"}, "batch": 8, "updates": 2}, keys
    )


def test_a_task_of_a_step_becomes_a_worker(commands, tmp_path):
    commands("scontrol", "printf '127.0.0.1\\n127.0.0.1\\n'")
    environ = dict(TASK)
    assert slurm_step.join_step(environ, tmp_path)
    place = place_of(environ)
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.local_size) == (3, 4, 1, 2)
    assert place.meeting == tmp_path / ".step-12-0-1" / "ranks"
    assert environ["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")


def test_the_first_task_makes_the_folder_where_the_others_find_it(commands, tmp_path):
    commands("scontrol", "printf '127.0.0.1\\n127.0.0.1\\n'")
    assert slurm_step.join_step({**TASK, "SLURM_PROCID": "0"}, tmp_path)
    folder = tmp_path / ".step-12-0-1"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "store.json").stat().st_mode & 0o777 == 0o600
    store = joined(folder, timedelta(seconds=5))
    assert store.num_keys() == 0
    store.close()
    with pytest.raises(MachineError, match="cannot meet there"):  # somebody else has made it
        slurm_step.join_step({**TASK, "SLURM_PROCID": "0"}, tmp_path)


def test_on_one_node_the_tasks_meet_in_a_file(commands, tmp_path):
    commands("scontrol", "echo n3")
    environ = {**TASK, "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "2"}
    assert slurm_step.join_step(environ, tmp_path)
    assert environ["BIGBATCH_MEETING"] == str(tmp_path / ".step-12-2-1" / "ranks.file")
    assert not list((tmp_path / ".step-12-2-1").iterdir())


@pytest.mark.parametrize(
    "changes", [{"SLURM_STEP_NUM_TASKS": "1"}, {"RANK": "0"}, {"SLURM_STEP_ID": None}], ids=str
)
def test_other_processes_are_left_as_they_are(changes, tmp_path):
    environ = {name: value for name, value in {**TASK, **changes}.items() if value is not None}
    before = dict(environ)
    assert not slurm_step.join_step(environ, tmp_path)
    assert environ == before


def test_outside_an_allocation_is_a_users_mistake():
    with pytest.raises(UsageError, match="salloc"):
        slurm.slurm_command(recipe(), ["train", "r.yaml"], None, {}, print, submit=False)


def test_submit_hands_over_the_script_and_says_the_job(commands, tmp_path):
    commands(
        "sbatch",
        f"cat > {tmp_path}/given; env > {tmp_path}/env; echo \"$@\" >> {tmp_path}/env; echo '77;here'",
    )
    said: list[str] = []
    wishes = recipe(**{"launch.slurm.partition": "gpu", "launch.slurm.nodes": 3})
    words = ["train", "job.yaml", "@changes"]
    environ = {"PATH": os.environ["PATH"], "BIGBATCH_TOKENS": "secret-1", "BIGBATCH_CHANGES": "secret-2"}
    assert slurm.slurm_command(wishes, words, "2", environ, said.append, submit=True) == 0
    assert said[0].startswith("submitted job 77;") and "scancel 77" in said[0]
    text = (tmp_path / "given").read_text()
    assert "#SBATCH --partition=gpu" in text and "#SBATCH --nodes=3" in text
    assert f"{sys.executable} -P -m bigbatch train job.yaml @changes --slurm --ranks 2 &" in text
    # The values are the job's environment, which Slurm keeps; the script only says what it cannot do without.
    assert "secret" not in text and "BIGBATCH_TOKENS was set" in text and "BIGBATCH_CHANGES was set" in text
    assert "BIGBATCH_TOKENS=secret-1" in (tmp_path / "env").read_text().splitlines()


def test_what_slurm_refuses_is_told_in_its_words(commands):
    commands("sbatch", "echo 'invalid partition specified: gold' >&2; exit 1")
    with pytest.raises(MachineError, match="sbatch refused: invalid partition"):
        slurm.slurm_command(recipe(), ["train", "r.yaml"], None, os.environ, print, submit=True)


def test_without_slurm_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="sbatch was not found"):
        slurm.slurm_command(recipe(), ["train", "r.yaml"], None, os.environ, print, submit=True)


def test_the_end_comes_from_the_environment_else_from_squeue(commands):
    assert slurm.ends_at("12", {"SLURM_JOB_END_TIME": "1700000000"}) == 1_700_000_000.0
    commands("squeue", "date -d @1700000000 +%Y-%m-%dT%H:%M:%S")
    assert slurm.ends_at("12", {}) == 1_700_000_000.0
    commands("squeue", "echo NONE")
    assert slurm.ends_at("12", {}) is None


def _reader():
    """In the place of srun: ends, with the number, when it is told one."""
    code = "import sys; sys.exit(int(sys.stdin.readline() or 99))"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_word_to_the_agents(number):
    with _reader() as process, slurm.Step(process, None, 30.0) as asking:
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert process.wait(20) == number and asking.first == number


def test_the_end_of_the_jobs_time_is_a_sigterm():
    """Half a second from now, when the grace and the spare time are taken off."""
    with _reader() as process, slurm.Step(process, time.time() + 10 + 30 + 0.5, 10.0) as asking:
        assert process.wait(20) == signal.SIGTERM and asking.first == signal.SIGTERM


def test_a_step_that_ends_by_itself_was_not_asked():
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    with process, slurm.Step(process, time.time() + 3600, 30.0) as asking:
        assert process.wait(20) == 0 and asking.first is None


def test_srun_and_its_other_end_agree_on_the_words():
    allocation = slurm.Allocation(job="12", hosts=("n3", "n4"), ranks_per_node=2, max_restarts=1)
    words = slurm.srun_words(allocation, Path("/shared/launch"), ["train", "r.yaml"])
    assert "--export=ALL" in words
    assert allocation.ranks == 4
    assert words[words.index(sys.executable) + 1] == "-P"
    given = words[words.index("bigbatch.launch.slurm_node") + 1 :]
    for node, way in (("0", "lead"), ("1", "join")):
        found = node_words(given, "10.0.0.4", {"SLURM_NODEID": node, "SLURM_JOB_ID": "12"})
        assert found[:4] == ["--everybody-hears", "/shared/launch", way, "10.0.0.4"]
        assert {"--nnodes=2", "--nproc-per-node=2", "--max-restarts=1"} <= set(found)
        assert found[-4:] == ["-m", "bigbatch", "train", "r.yaml"]


def test_a_job_on_one_node_stays_on_it():
    allocation = slurm.Allocation(job="12", hosts=("n3",), ranks_per_node=2)
    words = slurm.srun_words(allocation, Path("/shared/launch"), ["train", "r.yaml"])
    given = words[words.index("bigbatch.launch.slurm_node") + 1 :]
    environ = {"SLURM_NODEID": "0", "SLURM_JOB_ID": "12"}
    assert own_address(given, environ) == "127.0.0.1"
    assert node_words(given, "127.0.0.1", environ)[2] == "alone"


def test_this_machines_own_address_and_interface():
    assert address_towards("127.0.0.1", {}) == "127.0.0.1"
    assert address_towards("no.such.name.invalid", {"SSH_CONNECTION": "1.1.1.1 9 2.2.2.2 22"}) == "2.2.2.2"
    assert interface_of("127.0.0.1") in ("lo", "lo0")
    assert interface_of("203.0.113.9") is None and kept_to("203.0.113.9") == {}
    assert set(kept_to("127.0.0.1")) == {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}


@pytest.mark.parametrize(("ranks", "each"), [(None, None), ("auto", None), ("4", 2), ("2", 1)])
def test_ranks_are_counted_over_all_nodes(ranks, each):
    assert slurm._on_each(ranks, 2) == each


@pytest.mark.parametrize("ranks", ["3", "0", "-2", "two"])
def test_ranks_that_the_nodes_cannot_share_are_refused(ranks):
    with pytest.raises(UsageError, match="2 nodes share out evenly"):
        slurm._on_each(ranks, 2)


def test_ranks_meet_beside_the_run_directory_however_its_root_is_said():
    recipe = {"model": "m", "task": "classify", "data": {"train": "a.csv"}, "batch": 8, "updates": 2}
    for root, where in (
        ("~/all", Path.home() / "all/runs"),
        ("/all", Path("/all/runs")),
        (None, Path.cwd() / "runs"),
    ):
        loaded = load_recipe(recipe, {} if root is None else {"run.root": root})
        assert slurm.shared_folder(loaded) == where == loaded.run_folder.parent

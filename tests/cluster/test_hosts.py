"""`--hosts a,b` over real SSH, and what becomes of the run when a rank, a link or a host is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.watching import losses, saved, status, steps, wait_for_update
from tools.cluster.network import LOGIN, Network, rank_process, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.world_size(2)]

TRAIN = [sys.executable, "-m", "bigbatch", "train", "recipe.yaml", "--hosts"]


class Training:
    """Context manager: the command, running on the login host; what it says goes to a file."""

    def __init__(
        self, network: Network, job: Any, environ: dict[str, str], *changes: str, hosts: str = "a,b"
    ):
        self.log = job.folder / "said.txt"
        with self.log.open("wb") as said:
            self.process = network[LOGIN].start(
                [*TRAIN, hosts, *changes],
                cwd=job.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def hears(self, *words: str, seconds: float) -> float:
        """Seconds until all `words` were said."""
        return wait_for(lambda: all(word in self.said() for word in words), f"{words}", seconds=seconds)

    def ends(self, seconds: float) -> tuple[int, float]:
        """Exit code, and the seconds until it came."""
        began = time.monotonic()
        return self.process.wait(seconds), time.monotonic() - began


def workers_on(network: Network) -> list[int]:
    """Ranks that still run anywhere."""
    found = []
    for rank in (0, 1):
        try:
            found.append(rank_process(network.hosts, rank)[1])
        except LookupError:
            continue
    return found


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, model):
    """Losses of six updates in one process."""
    from tests.cluster.conftest import LONG
    from tests.run.jobs import write_job

    job = write_job(tmp_path_factory.mktemp("alone") / "job", model, **LONG)
    done = job.command("updates=6")
    assert done.code == 0, done.output
    return losses(job.run)


def test_two_hosts_compute_what_one_process_does(hosts, job, environ, one_process):
    with Training(hosts, job, environ, "updates=6") as training:
        code, _ = training.ends(200)
        assert code == 0, training.said()
    assert losses(job.run) == pytest.approx(one_process, rel=1e-5)
    assert "[a]" in training.said() or "[b]" in training.said()
    assert (job.run / "logs" / "rank-0001.log").exists()
    assert workers_on(hosts) == []


@pytest.mark.parametrize("name", ["recipe.yaml", "train.csv"])
def test_a_host_that_has_something_else_is_refused(hosts, job, environ, name, tmp_path):
    """Another file lies over the shared one, on b alone."""
    other = tmp_path / "other"
    text = (job.folder / name).read_text()
    other.write_text(
        text.replace("lr: 0.02", "lr: 0.03") if name == "recipe.yaml" else text + text.splitlines()[-1]
    )
    assert other.read_text() != text
    hosts["b"].run(["mount", "--bind", str(other), str(job.folder / name)])
    with Training(hosts, job, environ) as training:
        code, _ = training.ends(90)
    said = training.said()
    assert code == 2, said
    assert "a has" in said and "b has" in said
    assert not steps(job.run)


def test_an_unknown_host_is_6_within_30_seconds(hosts, job, environ, measured):
    with Training(hosts, job, environ, hosts="a,nowhere") as training:
        code, seconds = training.ends(30)
    assert code == 6 and "nowhere" in training.said(), training.said()
    measured("unknown host", f"{seconds:.1f} s", "nothing had begun")


def test_ctrl_c_saves_and_stops_all_hosts(hosts, job, environ, measured):
    with Training(hosts, job, environ) as training:
        wait_for_update(job.run, 5)
        training.process.send_signal(signal.SIGINT)
        code, seconds = training.ends(60)
    assert code == 130, training.said()
    assert status(job.run)["state"] == "interrupted" and saved(job.run)[-1] == steps(job.run)[-1]
    assert workers_on(hosts) == []
    measured("Ctrl-C", f"saved, all hosts free after {seconds:.1f} s", "nothing")


def test_a_killed_rank_is_named(hosts, job, environ, measured):
    with Training(hosts, job, environ) as training:
        wait_for_update(job.run, 5)
        where, pid = rank_process(hosts.hosts, 1)
        os.kill(pid, signal.SIGKILL)
        code, seconds = training.ends(60)
    assert code == 6 and "rank 1" in training.said() and "SIGKILL" in training.said(), training.said()
    assert f"on {where}" in training.said()
    measured("rank killed, no restarts", f"{seconds:.1f} s", since_saved(job.run))


def test_a_killed_rank_starts_the_group_again_from_the_newest_checkpoint(hosts, job, environ, measured):
    with Training(hosts, job, environ, "launch.max_restarts=1") as training:
        wait_for_update(job.run, 25)
        lost = since_saved(job.run)
        began = time.monotonic()
        os.kill(rank_process(hosts.hosts, 1)[1], signal.SIGKILL)
        wait_for(
            lambda: (job.run / "metrics.lost-1.jsonl").exists() or len(steps(job.run)) > 399,
            "it",
            seconds=150,
        )
        seconds = time.monotonic() - began
        code, _ = training.ends(200)
    assert code == 0, training.said()
    assert steps(job.run) == list(range(1, 401))
    measured("rank killed, one restart", f"goes on after {seconds:.0f} s", lost)


def test_a_stopped_rank_is_named_within_a_minute(hosts, job, environ, measured):
    with Training(hosts, job, environ, "updates=4000") as training:
        wait_for_update(job.run, 5)
        where, pid = rank_process(hosts.hosts, 1)
        os.kill(pid, signal.SIGSTOP)
        seconds = training.hears("rank 1", f"on {where}", "stopped", seconds=60)
        os.kill(pid, signal.SIGCONT)
        before = len(steps(job.run))
        wait_for_update(job.run, before + 5)
    measured("rank stopped", f"{seconds:.0f} s, with its update and phase", "nothing, when it goes on")


def test_a_cut_link_ends_the_run_and_names_the_host(hosts, job, environ, measured):
    with Training(hosts, job, environ, "updates=4000") as training:
        wait_for_update(job.run, 5)
        hosts["b"].cut()
        code, seconds = training.ends(120)
    assert code == 6 and "host b is gone" in training.said(), training.said()
    measured("link of a host cut", f"{seconds:.0f} s", since_saved(job.run))


def test_without_a_host_it_goes_on_where_that_is_allowed(hosts, job, environ, measured):
    with Training(hosts, job, environ, "launch.min_nodes=1") as training:
        wait_for_update(job.run, 25)
        lost = since_saved(job.run)
        hosts["b"].power_off()
        seconds = training.hears("host b is gone", seconds=60)
        code, more = training.ends(240)
    assert code == 0, training.said()
    assert steps(job.run) == list(range(1, 401)) and status(job.run)["state"] == "finished"
    measured("host lost, min_nodes: 1", f"named after {seconds:.0f} s, done {more:.0f} s later", lost)


def since_saved(run: Path) -> str:
    """What is computed again."""
    done, kept = len(steps(run)), (saved(run) or [0])[-1]
    return f"{done - kept} updates, since the checkpoint of update {kept}"

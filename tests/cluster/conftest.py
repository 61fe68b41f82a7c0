"""Real clusters on this machine: only on request (`make test-cluster`), and skipped with the reason where not allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.run.jobs import Job, tiny_model, write_job
from tools.cluster.network import Network, why_not
from tools.cluster.secure import serve_ssh
from tools.cluster.slurm import PROGRAMS, Slurm

MEASURED: list[tuple[str, str, str]] = []
"""Fault, time to detect, what was lost."""

LONG = {
    "updates": 400,
    "regularise": {"dropout": 0},
    "run": {"dir": "runs/job", "evaluate_every": "end", "checkpoint_every": "20 updates", "keep": 2},
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out unless the marker is asked for."""
    ours = [item for item in items if item.get_closest_marker("cluster")]
    if ours and "cluster" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of faults."""
    if MEASURED:
        terminalreporter.section("faults")
        for row in [("fault", "noticed, and told", "lost"), *MEASURED]:
            terminalreporter.line("| " + " | ".join(row) + " |")


@pytest.fixture
def measured() -> Callable[[str, str, str], None]:
    """Adds a row to the table of faults."""
    return lambda fault, noticed, lost: MEASURED.append((fault, noticed, lost))


@pytest.fixture
def hosts():
    """Two hosts, `a` and `b`, that can be entered over SSH; new ones for every test, since tests break them."""
    reason = why_not("sshd", "ssh", "ssh-keygen")
    if reason:
        pytest.skip(reason)
    with Network(["a", "b"]) as network:
        serve_ssh(network)
        yield network


@pytest.fixture(scope="module")
def slurm():
    """Slurm on two nodes."""
    reason = why_not(*PROGRAMS)
    if reason:
        pytest.skip(reason)
    with Network(["a", "b"]) as network, Slurm(network) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    """Four hundred updates of a tiny model: half a minute on two busy cores."""
    return write_job(tmp_path / "job", model, **LONG)


@pytest.fixture(scope="session")
def environ() -> dict[str, str]:
    """Of every process on a host."""
    names = (
        "PATH",
        "PYTHONPATH",
        "HOME",
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "HF_HUB_OFFLINE",
        "TOKENIZERS_PARALLELISM",
    )
    return {**{name: os.environ[name] for name in names if name in os.environ}, "OMP_NUM_THREADS": "1"}

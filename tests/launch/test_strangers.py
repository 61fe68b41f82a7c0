"""Who else is on this machine, and what lies in the user's folder, has no part in a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import traps
from tests.models import WORDS, tiny_folder
from tests.strangers import Listener, attacked, descendants, listeners

LOSSES = "import torch\n\ndef own(logits, targets):\n    return torch.nn.functional.cross_entropy(logits, targets, reduction='none')\n"


@pytest.fixture
def job(tmp_path) -> Path:
    """A recipe's folder, and beside it the folder that the user is in: traps lie in both."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "user").mkdir()
    tiny_folder(folder / "model")
    rows = [f"{WORDS[n % 9]} {WORDS[n % 5]},{['no', 'yes'][n % 2]}" for n in range(60)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (folder / "own.py").write_text(LOSSES)
    (folder / "recipe.yaml").write_text(
        "{model: model, task: classify, data: {train: rows.csv}, batch: 16, updates: 2, loss: 'own.py:own',"
        f" run: {{dir: '{tmp_path}/runs/x'}}, plan: {{micro_tokens: 64, compile: 'off', threads: 1}}}}"
    )
    for each in (folder, tmp_path / "user"):
        traps.lay(each, tmp_path / "sprung")
    return tmp_path


def start(
    job: Path, *words: str, python: tuple[str, ...] = ("-m", "bigbatch"), **more: str
) -> subprocess.Popen:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.Popen(
        [sys.executable, *python, *words],
        cwd=job / "user",
        env={**environ, "OMP_NUM_THREADS": "1", **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Watching(threading.Thread):
    """Collects every listener of a process and of all that it starts, until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._over = pid, threading.Event()
        self.seen: set[Listener] = set()
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.2):
            self.seen |= listeners(descendants(self._pid))

    def stop(self) -> set[Listener]:
        self._over.set()
        self.join()
        return self.seen


def updates(job: Path) -> int:
    path = job / "runs" / "x" / "metrics.jsonl"
    return path.read_text().count('"update"') if path.exists() else 0


def wait_until(happened, process: subprocess.Popen, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_nobody_reaches_the_ranks_of_one_machine(job):
    """Nothing listens but gloo, on the loopback; a stranger is told nothing, runs nothing and stops nothing."""
    process = start(job, "train", "../recipes/recipe.yaml", "--ranks", "2", "updates=100000")
    watching = Watching(process.pid)
    try:
        wait_until(lambda: updates(job) > 3, process)
        now = listeners(descendants(process.pid))
        assert len({each.pid for each in now}) == 2, "each rank has its gloo, and nobody else listens"
        assert attacked(now, job / "canary") == []
        before = updates(job)
        wait_until(lambda: updates(job) > before + 3, process)
        seen = watching.stop()
        assert not [each for each in seen if not each.is_local]
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert not (job / "canary").exists()
    assert traps.sprung(job / "sprung") == []


@pytest.mark.parametrize("words", [["plan"], ["train"], ["predict"]], ids=lambda words: words[0])
def test_files_in_the_users_folder_and_beside_the_recipe_are_not_modules(job, words):
    target = (
        ["../recipes/model", "../recipes/rows.csv"] if words == ["predict"] else ["../recipes/recipe.yaml"]
    )
    process = start(job, *words, *target)
    said, _ = process.communicate(timeout=120)
    assert traps.sprung(job / "sprung") == []
    assert process.returncode == 0 or words == ["predict"], said


def test_the_agent_and_the_questions_over_ssh_look_for_no_modules_there(job):
    for module in ("bigbatch.launch.facts", "bigbatch.parallel.agent", "bigbatch.launch.slurm_node"):
        process = start(job, "{}", python=("-m", module))
        process.communicate(timeout=60)
    assert traps.sprung(job / "sprung") == []


RULE = {
    "one process": (["train"], []),
    "ranks": (["train"], ["--ranks", "2"]),
}


@pytest.mark.parametrize("way", RULE)
def test_a_module_is_installed_or_on_the_path_and_never_in_the_users_folder(job, way):
    """`module:name` is refused alike before anything starts, with the way to say it."""
    command, more = RULE[way]
    words = [*command, "../recipes/recipe.yaml", "loss=own:own", *more]
    (job / "user" / "own.py").write_text(LOSSES)
    process = start(job, *words)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "no module own is installed or on PYTHONPATH; it is a file beside the recipe: own.py:NAME" in said
    assert not (job / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one process", pytest.param("ranks", marks=pytest.mark.stress)])
def test_a_module_on_the_path_is_found(job, way):
    command, more = RULE[way]
    (job / "lib").mkdir()
    (job / "lib" / "mine.py").write_text(LOSSES)
    words = [*command, "../recipes/recipe.yaml", "loss=mine:own", *more]
    process = start(job, *words, PYTHONPATH=f"{job / 'lib'}")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said

"""How threads wait is set before torch is loaded, and never against the user."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bigbatch.waiting import CHOSEN_BY, PASSIVE, notes_of_waiting, wait_passively


def test_it_is_set_where_nobody_has_chosen():
    environ: dict[str, str] = {}
    assert wait_passively(environ, {"sys", "numpy"})
    assert environ == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize("name", CHOSEN_BY)
def test_what_the_user_chose_stays(name):
    environ = {name: "active"}
    assert wait_passively(environ, {"torch"})
    assert environ == {name: "active"}


def test_after_torch_it_is_too_late_and_said_where_it_matters():
    environ: dict[str, str] = {}
    assert not wait_passively(environ, {"torch"})
    assert environ == {}
    (note,) = notes_of_waiting(SimpleNamespace(device="cpu", threads=2), waits=False)
    assert "import bigbatch before torch" in note
    assert notes_of_waiting(SimpleNamespace(device="cpu", threads=1), waits=False) == ()
    assert notes_of_waiting(SimpleNamespace(device="cuda:0", threads=8), waits=False) == ()
    assert notes_of_waiting(SimpleNamespace(device="cpu", threads=2), waits=True) == ()


@pytest.mark.parametrize(
    "start",
    [
        ["-m", "bigbatch", "--version"],
        ["-c", "from bigbatch.cli import main; main(['--version'])"],  # the console script's words
        ["-c", "import bigbatch; bigbatch.Recipe"],
        ["-c", "import bigbatch.parallel.agent"],
        ["-c", "import bigbatch.study.contestants.common"],
    ],
)
def test_every_way_in_sets_it_before_torch_is_loaded(start, tmp_path):
    """A stand-in for torch notes what it would read."""
    stand_in = tmp_path / "hook"
    stand_in.mkdir()
    noted = tmp_path / "noted"
    (stand_in / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        f"            open({str(noted)!r}, 'w').write(os.environ.get('OMP_WAIT_POLICY', ''))\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"atexit.register(lambda: os.path.exists({str(noted)!r}) or "
        f"open({str(noted)!r}, 'w').write(os.environ.get('OMP_WAIT_POLICY', '')))\n"
    )
    environ = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY}
    environ["PYTHONPATH"] = os.pathsep.join([str(stand_in), environ["PYTHONPATH"]])
    done = subprocess.run([sys.executable, *start], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert noted.read_text() == PASSIVE["OMP_WAIT_POLICY"]

"""What an agent reads of its workers, which may have been killed while they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bigbatch.parallel import agent

DAMAGE = (
    "",
    "[" * 100_000,
    "[]",
    "{}",
    '{"pid": "x", "restart": []}',
    '{"pid": -1, "restart": 1e400}',
    "a named pipe",
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_worker_whose_word_is_damaged_hides_no_other(tmp_path, damage):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        if damage == "a named pipe":
            os.mkfifo(tmp_path / "worker-0.json")
        else:
            (tmp_path / "worker-0.json").write_text(damage)
        (tmp_path / "worker-1.json").write_text(json.dumps({"pid": child.pid, "restart": 4}))
        (tmp_path / "ending-x-1.json").write_text("")
        assert child.pid in agent.workers(tmp_path)
        failure = SimpleNamespace(pid=7, exitcode=-9, timestamp=1)
        agent._write_down(tmp_path, SimpleNamespace(failures={0: failure}))
    finally:
        child.communicate(b"\n")
    (written,) = tmp_path.glob("agent-*.json")
    assert written.name.startswith("agent-4-")
    assert json.loads(written.read_text())[0]["exit_code"] == -9

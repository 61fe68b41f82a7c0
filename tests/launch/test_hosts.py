"""A real run on two hosts, which are this machine behind a stand-in for ssh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bigbatch.recipe.load import load_recipe
from tests.models import WORDS, tiny_folder


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_hosts_train_one_model(tmp_path, root, python):
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(root / "tests" / "launch" / "fake_ssh", programs / "ssh")
    tiny_folder(tmp_path / "model")
    rows = [f"{WORDS[n % 9]} {WORDS[n % 5]},{['no', 'yes'][n % 2]}" for n in range(60)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "recipe.yaml").write_text(
        "{model: model, task: classify, data: {train: rows.csv}, batch: 16, updates: 3, run: {dir: runs/x},"
        " plan: {micro_tokens: 64, compile: 'off'}}"
    )
    environ = {
        **os.environ,
        "PATH": f"{programs}:{Path(python).parent}:/usr/bin:/bin",
        "HF_ENDPOINT": "https://me:hunter2@127.0.0.1:9",
        "HTTPS_PROXY": "http://me:hunter2@127.0.0.1:9",
        "BIGBATCH_RUN__CHECKPOINT_EVERY": "45678 s",
        "BIGBATCH_RUN__EVALUATE_EVERY": "3 updates",
    }
    with subprocess.Popen(
        [python, "-m", "bigbatch", "train", "recipe.yaml", "optimizer.lr=0.0012345", "--hosts", "a,b"],
        cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        shown = _watched(process)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "starts 1 on a, 1 on b" in said
    assert len(shown) > 6, shown  # launcher, ssh, agents, workers
    for secret in ("hunter2", "45678", "0012345"):
        assert not [words for pid, words in shown.items() if secret in words and pid != process.pid], secret
    run = tmp_path / "runs" / "x"
    assert json.loads((run / "plan.json").read_text())["ranks"]["value"] == 2
    assert (run / "logs" / "rank-0001.log").stat().st_size > 0
    assert not list((tmp_path / "runs" / ".cache").glob("launch-*"))
    resolved = load_recipe(run / "recipe.yaml")
    assert (resolved.optimizer.lr, str(resolved.run.checkpoint_every)) == (0.0012345, "45678 s")
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not [path for path in written if b"hunter2" in path.read_bytes()]
    assert "hunter2" not in said


def _watched(process: subprocess.Popen[str]) -> dict[int, str]:
    """Process id -> command line, of all that hang together with this one's folder, until it ends."""
    shown: dict[int, str] = {}
    last = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < last:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if os.readlink(path.with_name("cwd")) == os.readlink(f"/proc/{process.pid}/cwd"):
                    shown[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode()
        time.sleep(0.02)
    return shown

"""A real run on two hosts, which are this machine behind a stand-in for ssh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

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
    environ = {**os.environ, "PATH": f"{programs}:{Path(python).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        [python, "-m", "bigbatch", "train", "recipe.yaml", "--hosts", "a,b"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "starts 1 on a, 1 on b" in done.stderr
    run = tmp_path / "runs" / "x"
    assert json.loads((run / "plan.json").read_text())["ranks"]["value"] == 2
    assert (run / "logs" / "rank-0001.log").stat().st_size > 0
    assert not list((tmp_path / "runs" / ".cache").glob("launch-*"))

"""What a worker leaves for the process that sent it out."""

from __future__ import annotations

import json
import os

import pytest

from bigbatch.launch.sent import _ended

GOOD = {"path": "/runs/job", "status": "finished", "signal": None}


def test_what_rank_0_left_is_read(tmp_path):
    path = tmp_path / "ended.json"
    assert _ended(path) is None
    path.write_text(json.dumps(GOOD))
    assert _ended(path) == GOOD


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        "[]",
        "{}",
        json.dumps({**GOOD, "path": 3}),
        json.dumps({**GOOD, "signal": "x"}),
        "pipe",
    ],
)
def test_what_is_damaged_says_nothing(tmp_path, content):
    path = tmp_path / "ended.json"
    if content == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(content)
    assert _ended(path) is None

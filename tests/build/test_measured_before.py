"""What was measured before is believed only as far as a measurement could have said it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bigbatch.build import measured_before
from bigbatch.build.measured_before import Remembered

GOOD = {
    "micro_tokens": 512,
    "evaluation_micro_tokens": 1024,
    "tried": {"256": 1e-5, "512": 9e-6},
    "attention": {"sdpa": 0.01},
    "seconds_per_token": 9e-6,
    "seconds_per_token_forward": 3e-6,
    "seconds_per_update": 0.01,
}


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setattr(measured_before, "_key", lambda on, packing: "k")
    return lambda: Remembered.of(SimpleNamespace(cache_dir=tmp_path), "packed")  # pyright: ignore


def test_what_was_written_comes_back(tmp_path: Path, found):
    assert not found().known
    (tmp_path / "k.json").write_text(json.dumps(GOOD))
    known = found()
    assert known.speeds["seconds_per_token"] == 9e-6
    assert (known.known, known.micro_tokens, known.tried) == (True, 512, {256: 1e-5, 512: 9e-6})


@pytest.mark.parametrize(
    "change",
    [
        {"micro_tokens": 0}, {"micro_tokens": -1}, {"micro_tokens": "many"}, {"micro_tokens": 2**40},
        {"micro_tokens": 1.5}, {"evaluation_micro_tokens": None}, {"tried": {"x": 1.0}}, {"tried": {"-5": 1.0}},
        {"tried": {"5": -1.0}}, {"tried": {"5": 0}}, {"tried": [1]}, {"tried": {"9" * 5000: 1.0}},
        {"attention": {"sdpa": "fast"}}, {"attention": None}, {"seconds_per_token": -1.0},
    ],
)  # fmt: skip
def test_what_no_measurement_says_is_forgotten(tmp_path: Path, found, change):
    (tmp_path / "k.json").write_text(json.dumps({**GOOD, **change}))
    assert not found().known and found().tried == {}


@pytest.mark.parametrize(
    "content", ["", "[" * 100_000, "[]", "null", '{"micro_tokens": 1e400}', "pipe", "folder"]
)
def test_what_is_no_such_file_is_forgotten_and_never_waited_for(tmp_path: Path, found, content):
    path = tmp_path / "k.json"
    if content == "pipe":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    else:
        path.write_text(content)
    assert not found().known


def test_todays_speed_of_one_size_is_not_held_against_others_of_another_day(tmp_path: Path, found):
    """On a busy day 512 alone is measured again, slower than 256 was: 512 was the choice, and the plan has to show why."""
    (tmp_path / "k.json").write_text(json.dumps(GOOD))
    assert found().tried_together({512: 3e-5}) == {256: 1e-5, 512: 9e-6}
    assert Remembered(file=None).tried_together({512: 3e-5}) == {512: 3e-5}
    # One size alone was no comparison: what is tried now is.
    assert Remembered(file=None, tried={512: 1e-6}).tried_together({512: 3e-5, 1024: 2e-5})[512] == 3e-5

"""examples/airline-tweets: what its scripts compute without the data."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "airline-tweets"


def script(name: str) -> ModuleType:
    """A script of the example as a module."""
    spec = importlib.util.spec_from_file_location(f"airline_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_split_is_fixed():
    is_test = script("make_data").is_test
    chosen = [number for number in range(60) if is_test(f"@united tweet number {number}")]
    assert chosen == [0, 8, 18, 21, 23, 29, 31, 38, 58, 59]
    assert abs(sum(is_test(f"tweet {number}") for number in range(6000)) / 6000 - 1 / 6) < 0.02


def test_equal_texts_land_on_the_same_side():
    is_test = script("make_data").is_test
    for number in range(50):
        assert is_test(f"Late  AGAIN {number}") == is_test(f"late again {number}")


def test_a_missing_package_says_what_to_do():
    with pytest.raises(SystemExit, match="make demo"):
        script("make_data").package_folder("no_such_package_at_all")


def test_the_table_counts_points():
    lines = script("demo").table({"accuracy": 0.82, "f1_macro": 0.74}, {"accuracy": 0.85, "f1_macro": 0.735})
    assert [line.split()[-2] for line in lines[1:]] == ["+3.0", "-0.5"]


def test_ctrl_c_in_the_demo_waits_for_the_training_and_ends_with_its_code():
    """The terminal sends it to both: the training saves and ends by itself, and nobody sees a traceback."""
    training = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.2), sys.exit(75)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)\n"
    )
    demo = (
        f"import sys; sys.path.insert(0, {str(EXAMPLE)!r}); import demo; "
        f"sys.exit(demo.run(sys.executable, '-c', {training!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", demo],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (75, "")


def test_the_demo_counts_the_calls_that_were_interrupted(tmp_path, monkeypatch):
    demo = script("demo")
    monkeypatch.setattr(demo, "SPENT", tmp_path / "spent.json")
    demo.interrupted_after(90.0)
    demo.interrupted_after(30.0)
    assert json.loads((tmp_path / "spent.json").read_text()) == [90.0, 30.0]

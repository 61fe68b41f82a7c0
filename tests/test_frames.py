"""What a person sees of a mistake: a sentence at the own line."""

from __future__ import annotations

import subprocess
import sys
import traceback

import pytest

import bigbatch
from bigbatch.errors import BigbatchError, UsageError
from bigbatch.frames import TRACEBACK_VARIABLE, each_said_plainly, said_plainly
from bigbatch.recipe.load import load_recipe

CALLS = {
    "train": lambda: bigbatch.train("nowhere"),
    "train_model": lambda: bigbatch.train_model("nowhere"),
    "start": lambda: bigbatch.start("nowhere"),
    "distributed_train": lambda: bigbatch.distributed_train("x", [], launcher="sshh"),
    "plan": lambda: bigbatch.plan("nowhere.yaml"),
    "prepare": lambda: bigbatch.prepare("nowhere.yaml"),
    "evaluate": lambda: bigbatch.evaluate("nowhere", "x.csv"),
    "predict": lambda: bigbatch.predict("nowhere", ["x"]),
    "read": lambda: bigbatch.read("nowhere"),
    "report": lambda: bigbatch.report("nowhere"),
    "compare": lambda: bigbatch.compare(["nowhere"]),
    "generate": lambda: bigbatch.generate("nowhere", "x"),
    "mine": lambda: bigbatch.mine("nowhere", "x.jsonl", "out.jsonl"),
    "export": lambda: bigbatch.export("nowhere", "out"),
    "Trainer": lambda: bigbatch.Trainer(),
}


def test_every_call_of_the_package_is_here():
    assert {*bigbatch.__all__} - {*CALLS} == {"Recipe"}


@pytest.mark.parametrize("name", CALLS)
def test_a_mistake_is_at_the_callers_own_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BigbatchError) as caught:
        CALLS[name]()
    assert frames(caught.value) == ["test_a_mistake_is_at_the_callers_own_line", "<lambda>"]
    assert caught.value.__cause__ is None


def test_a_script_shows_the_sentence_and_the_own_line_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import bigbatch\nbigbatch.train('nowhere')\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    lines = done.stderr.splitlines()
    # Some libraries that are installed beside it say a line of their own when they are imported.
    lines = lines[lines.index("Traceback (most recent call last):") :]
    assert [line for line in lines if line.startswith("  File")] == [
        f'  File "{script}", line 2, in <module>'
    ]
    assert lines[-1].startswith("bigbatch.errors.UsageError: nowhere: expected a recipe"), done.stderr


def refused():
    try:
        raise KeyError("inside")
    except KeyError as error:
        raise UsageError("no") from error


def frames(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_causes_and_frames_come_back_on_request(monkeypatch):
    with pytest.raises(UsageError) as caught:
        said_plainly(refused)()
    assert "refused" not in frames(caught.value) and caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(UsageError) as caught:
        said_plainly(refused)()
    assert "refused" in frames(caught.value) and isinstance(caught.value.__cause__, KeyError)


def test_the_variable_is_no_key_of_a_recipe():
    assert load_recipe({}, environ={TRACEBACK_VARIABLE: "1"}) == load_recipe({})


@pytest.mark.parametrize("kind", [BigbatchError, ZeroDivisionError])
def test_a_bug_keeps_its_frames(kind):
    def fails():
        raise kind("a bug")

    with pytest.raises(kind) as caught:
        said_plainly(fails)()
    assert "fails" in frames(caught.value)


def test_records_are_said_plainly_too():
    def records():
        yield 1
        refused()

    found = each_said_plainly(records())
    assert next(found) == 1
    with pytest.raises(UsageError) as caught:
        next(found)
    assert frames(caught.value) == ["test_records_are_said_plainly_too"]

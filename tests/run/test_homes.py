"""A live model and a directory that holds its run, or another."""

from __future__ import annotations

from pathlib import Path

import pytest

import bigbatch
from bigbatch.errors import UsageError
from tests.jobs import differing, document, lines
from tests.models import tiny
from tests.test_arguments import ids

KEYS = {"updates": 6, "plan.micro_tokens": 128, "optimizer.lr": 1e-2}
CALL = {"batch_size": 16, "set": KEYS, "run_dir": "r"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def interrupted(module, after=3):
    with bigbatch.start(module, ids(), **CALL) as run:
        for record in run:
            if record.step == after:
                break
    assert run.status == "interrupted"
    return run


def test_the_same_model_object_goes_on_only_when_asked_and_is_told_so(capsys):
    whole = bigbatch.train(tiny("bert"), ids(), batch_size=16, set=KEYS, run_dir="whole", quiet=True)
    module = tiny("bert")
    interrupted(module)
    capsys.readouterr()
    with bigbatch.start(module, ids(), **CALL) as other:
        pass
    said = capsys.readouterr().err
    assert other.path.name == "r-2"
    assert (
        "began with other weights than the model has now" in said and "resume=True" in said and "r-2" in said
    )
    run = bigbatch.train(module, ids(), **CALL, resume=True)
    assert run.path.name == "r" and run.status == "finished"
    assert [line["step"] for line in lines(run.path, "update")] == [1, 2, 3, 4, 5, 6]
    assert not differing(run.model.state_dict(), whole.model.state_dict())


def test_a_model_with_another_random_head_goes_on_when_asked():
    whole = bigbatch.train(tiny("bert"), ids(), batch_size=16, set=KEYS, run_dir="whole", quiet=True)
    interrupted(tiny("bert"))
    run = bigbatch.train(tiny("bert", seed=7), ids(), **CALL, resume=True, quiet=True)
    assert run.path.name == "r"
    assert not differing(run.model.state_dict(), whole.model.state_dict())


def test_other_data_or_another_model_is_not_resumed():
    interrupted(tiny("bert"))
    with pytest.raises(UsageError, match="holds another run .data.contents.rows"):
        bigbatch.train(tiny("bert"), ids()[:40], **CALL, resume=True)
    with pytest.raises(bigbatch.errors.BigbatchError):
        bigbatch.train(tiny("bert", hidden_size=16, intermediate_size=16), ids(), **CALL, resume=True)
    assert document(Path("r"), "status.json")["state"] == "interrupted"


def test_nothing_to_resume_is_refused():
    with pytest.raises(UsageError, match="there is no run in"):
        bigbatch.train(tiny("bert"), ids(), **CALL, resume=True)


def test_an_interrupted_call_says_how_to_go_on(capsys):
    import os
    import signal

    def watch(record):
        if record.kind == "update" and record.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run = bigbatch.train(tiny("bert"), ids(), **CALL, observers=[watch])
    assert run.status == "interrupted"
    assert "interrupted; the same call with resume=True goes on" in capsys.readouterr().err


def test_a_finished_run_of_other_weights_is_told_of(capsys):
    bigbatch.train(tiny("bert"), ids(), **CALL, quiet=True)
    bigbatch.train(tiny("bert", seed=7), ids(), **CALL)
    assert "r holds a finished run that began with other weights" in capsys.readouterr().err

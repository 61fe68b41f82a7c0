"""`stages:`: one folder, killable at the seam; each stage from the model of the one before; later faults found first."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from bigbatch.errors import UsageError
from tests.run.forks import Forks, Kill
from tests.run.jobs import RECIPE, Job, folder_hash, leftovers, outcome, records, state, write_job

TRAIN = ("train", "recipe.yaml")
RENAME = "bigbatch.store.durable:FileOps.rename"
ADVANCE = "bigbatch.run.stages:StagedRun._advance"
SEAM = [
    Kill(target="bigbatch.step.executor:Plain.__call__", nth=5),
    Kill(target="bigbatch.run.finish:save_model", when="after"),
    Kill(target=RENAME, when="after", about="1-mlm/result.json"),
    Kill(target=ADVANCE, nth=2),
    Kill(target="bigbatch.store.lock:RunLock.acquire", when="after", nth=2),
    Kill(target=RENAME, when="after", about="2-classify/identity.json"),
    Kill(target=RENAME, about="job/stages.json"),
    Kill(target="bigbatch.step.executor:Plain.__call__", nth=9),
    Kill(target="bigbatch.run.stages:_same_files", when="after"),
    Kill(target=RENAME, when="after", about="job/result.json"),
    Kill(target=RENAME, when="after", about="job/status.json", nth=1),
]
"""In the order of the run: in the first stage, around the seam, in the second, around what is written of both."""
FEW = [SEAM[at] for at in (3, 5, 8)]


def staged(folder: Path, model: Path) -> Job:
    """Masked words for 4 updates, then classes for 6."""
    job = write_job(folder, model)
    job.change(
        data={"columns": {"text": "text", "label": "label"}},
        run={**RECIPE["run"], "evaluate_every": "3 updates", "checkpoint_every": "2 updates"},
        task=None, updates=None, best=None, baseline="off",
        stages=[{"task": "mlm", "updates": 4, "data": {"test": []}}, {"task": "classify", "updates": 6}],
    )  # fmt: skip
    text = job.recipe.read_text()
    for key in ("task", "updates", "best"):
        text = text.replace(f"\n{key}: null\n", "\n")
    job.recipe.write_text(text)
    return job


def both(job: Job) -> list[dict[str, Any]]:
    return [outcome(job.run / "stages" / name) for name in ("1-mlm", "2-classify")]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, model: Path, parent: Forks) -> Job:
    job = staged(tmp_path_factory.mktemp("straight") / "job", model)
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0, output
    return job


@pytest.fixture
def job(tmp_path: Path, straight: Job) -> Job:
    """The finished one, to go on with."""
    return Job(Path(shutil.copytree(straight.folder, tmp_path / "job")))


@pytest.mark.parametrize("kills", [FEW, pytest.param(SEAM, marks=pytest.mark.stress)], ids=["few", "all"])
def test_killed_around_the_seam_it_ends_with_the_same_bits(tmp_path, model, parent, straight, kills):
    job = staged(tmp_path / "job", model)
    for kill in kills:
        code, output = parent.run(job.folder, TRAIN, kill)
        assert code == -signal.SIGKILL, f"{kill} did not happen: exit code {code}\n{output}"
    assert parent.run(job.folder, TRAIN)[0] == 0
    assert both(job) == both(straight)
    assert state(job.run) == "finished" and leftovers(job.run) == []
    assert sorted(path.name for path in (job.run / "stages").iterdir()) == ["1-mlm", "2-classify"]
    whole = json.loads((job.run / "result.json").read_text())
    last = json.loads((job.run / "stages" / "2-classify" / "result.json").read_text())
    assert whole["final"] == last["final"] and [each["updates"] for each in whole["stages"]] == [4, 6]
    assert load_file(job.run / "model" / "model.safetensors").keys()
    assert "stages/1-mlm/report.html" in (job.run / "report.html").read_text()


def test_finished_it_says_so_and_a_signal_interrupts_all_of_it(job, parent):
    before = folder_hash(job.run)
    code, output = parent.run(job.folder, TRAIN)
    assert code == 0 and output.count("nothing to do") == 2, output
    after = folder_hash(job.run)
    assert {name for name in after if before.get(name) != after[name]} == set()
    term = Kill(target="bigbatch.step.executor:Plain.__call__", nth=3, signal=signal.SIGTERM)
    code, output = parent.run(job.folder, (*TRAIN, "stages.1.optimizer.lr=1e-3"), term)
    assert code == 143 and "the same command goes on" in output, output
    assert state(job.run) == "interrupted" and not (job.run / "model").exists()


def test_a_change_keeps_the_stages_before_it_and_begins_those_behind_anew(job, parent):
    first = folder_hash(job.run / "stages" / "1-mlm")
    code, output = parent.run(job.folder, (*TRAIN, "stages.classify.optimizer.lr=1e-3", "stages.1.updates=1"))
    assert code == 0 and "2-classify holds another run" in output, output
    assert folder_hash(job.run / "stages" / "1-mlm") == first

    code, output = parent.run(job.folder, (*TRAIN, "stages.0.updates=2"))
    assert code == 0, output
    names = sorted(path.name for path in (job.run / "stages").iterdir())
    assert names == ["1-mlm", "1-mlm-2", "2-classify", "2-classify-2", "2-classify-3"]
    listed = json.loads((job.run / "stages.json").read_text())["stages"]
    assert [each["folder"] for each in listed] == ["1-mlm-2", "2-classify-3"]
    assert folder_hash(job.run / "stages" / "1-mlm") == first


@pytest.mark.parametrize(
    "changes, code, words",
    [
        (["stages.1.data.test=nowhere.csv"], 2, "nowhere.csv"),
        (["stages.1.metrics=[f1_micro_macro]"], 2, "f1_micro_macro"),
        (["--resume"], 2, "there is no run in"),
        (["--continue", "runs/job"], 2, "--continue is not for a recipe with stages"),
    ],
)
def test_what_is_wrong_with_a_later_stage_costs_no_update(tmp_path, model, parent, changes, code, words):
    job = staged(tmp_path / "job", model)
    found, output = parent.run(job.folder, (*TRAIN, *changes))
    assert found == code and words in output, output
    assert not job.run.exists()


def test_a_missed_gate_ends_all_of_it_with_its_code(tmp_path, model, parent):
    job = staged(tmp_path / "job", model)
    code, output = parent.run(job.folder, (*TRAIN, "stages.0.gate={accuracy: 1.0}", "stages.0.updates=1"))
    assert code == 4 and "gate missed" in output, output
    assert state(job.run) == "failed" and not (job.run / "stages" / "2-classify").exists()


def test_every_reader_takes_the_last_stage_and_any_one(straight, monkeypatch, tmp_path):
    from bigbatch import answers, commands

    monkeypatch.chdir(straight.folder)
    stages = straight.run / "stages"
    for folder, perplexity in (
        (straight.run, False),
        (stages / "2-classify", False),
        (stages / "1-mlm", True),
    ):
        assert ("perplexity" in answers.evaluate(folder, ["test.csv"])) is perplexity
        assert commands.read(folder).updates.num_rows == (4 if perplexity else 6)
    assert answers.predict(straight.run, ["great love"])[0]["label"]
    text, _ = commands.compare([stages / "1-mlm", straight.run])
    assert "mlm" in text and "classify" in text
    lines = commands.plan("recipe.yaml")
    assert lines[0] == "stage 1 of 2: mlm" and lines[-1].startswith("all 2 stages: ")
    with pytest.raises(UsageError, match="recipe of its own"):
        commands.plan("recipe.yaml", graph=True)


def test_python_sees_one_run(tmp_path, model, monkeypatch):
    import bigbatch

    job = staged(tmp_path / "job", model)
    monkeypatch.chdir(job.folder)
    for key, value, words in (
        ("data.test", "nowhere.csv", "nowhere"),
        ("batch.samples", 10_000, "one update takes"),
    ):
        with pytest.raises(UsageError, match=words):
            bigbatch.train("recipe.yaml", set={f"stages.1.{key}": value}, quiet=True)
        assert not job.run.exists()
    # A rate that moves nothing: what the second stage ends with is what it started from.
    keys = {"stages.0.updates": 1, "stages.1.updates": 2, "stages.classify.optimizer.lr": 1e-30}
    seen = []
    with bigbatch.start("recipe.yaml", set=keys) as run:
        for record in run:
            if record.kind == "update":
                seen.append((run.stage, record.step))
    assert seen == [("mlm", 1), ("classify", 1), ("classify", 2)]
    assert run.status == "finished" and run.path == job.run and "test.f1_macro" in run.metrics
    assert run.predict(["great love"])[0]["label"]
    ended, started = (
        load_file(each / "model" / "model.safetensors") for each in (job.run, job.run / "stages/1-mlm")
    )
    shared = [name for name in started.keys() & ended.keys() if name.startswith("bert.encoder")]
    assert len(shared) > 10 and all((started[name] == ended[name]).all() for name in shared)
    with pytest.raises(UsageError, match="names its model and data itself"):
        bigbatch.train("recipe.yaml", [{"text": "a", "label": "b"}])


@pytest.mark.world_size(2)
def test_ranks_train_both_and_come_to_the_same(ranks, tmp_path, model, parent):
    job = staged(tmp_path / "job", model)
    job.change(regularise={"dropout": 0.0})
    job.change(
        stages=[{"task": "mlm", "updates": 1, "data": {"test": []}}, {"task": "classify", "updates": 2}]
    )
    assert parent.run(job.folder, (*TRAIN, "run.dir=runs/alone"))[0] == 0
    found = ranks.run("tests.run.stage_jobs:trained", 2, tmp_path, recipe=str(job.recipe))
    assert [each["status"] for each in found] == ["finished", "finished"] and found[0] == found[1]
    for name in ("1-mlm", "2-classify"):
        alone, shared = (
            records(job.folder / "runs" / run / "stages" / name, "update") for run in ("alone", "job")
        )
        assert [each["loss"] for each in shared] == pytest.approx([each["loss"] for each in alone], rel=1e-5)
    assert state(job.run) == "finished"

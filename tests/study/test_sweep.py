from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bigbatch import commands
from bigbatch.errors import RecipeError, RunLocked, UsageError
from bigbatch.store.lock import RunLock
from bigbatch.study import children
from tests.study import stand_in


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """The current folder, with a recipe; runs are stand-ins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        children,
        "_CHILD",
        f"import sys, runpy; sys.argv[0] = 'x'; runpy.run_path({stand_in.__file__!r}, run_name='__main__')",
    )
    (tmp_path / "recipe.yaml").write_text(
        (place / "recipe.yaml")
        .read_text()
        .replace("model: model", f"model: {place / 'model'}")
        .replace("data.csv", str(place / "data.csv"))
    )
    return tmp_path


def sweep(*over, **options):
    said = []
    outcome = commands.sweep("recipe.yaml", over=over, say=said.append, **options)
    return outcome, said


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def starts(folder, name):
    return (folder / "runs" / name / "starts").read_text().splitlines()


def test_every_combination_has_a_row(here):
    outcome, said = sweep("batch.samples=8,32", "seed=0,1")
    folder = here / "sweeps" / "recipe"
    assert (outcome.status, len(outcome.rows)) == ("finished", 4)
    found = rows(folder)
    assert list(found[0]) == ["batch.samples", "seed", "updates", "samples", "test.f1_macro", "test.loss", "train_seconds", "exit_reason", "run"]  # fmt: skip
    assert [(row["batch.samples"], row["seed"]) for row in found] == [
        ("8", "0"),
        ("32", "0"),
        ("8", "1"),
        ("32", "1"),
    ]
    assert found[1] == {
        "batch.samples": "32", "seed": "0", "updates": "1", "samples": "32", "test.f1_macro": repr(1 - 1 / 32),
        "test.loss": "", "train_seconds": "0.5", "exit_reason": "completed", "run": "runs/batch.samples-32,seed-0",
    }  # fmt: skip
    [words] = starts(folder, "batch.samples-8,seed-1")
    assert words.startswith("train recipe.yaml baseline=off batch.samples=8 seed=1 run.dir=")
    assert any("4 of 4 done" in line for line in said) and any("to go" in line for line in said)
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "test.f1_macro.svg",
        "train_seconds.svg",
    }
    assert "4 of 4 points have a result" in (folder / "report.html").read_text()
    assert (folder / "logs" / "batch.samples-8,seed-0.log").read_text() == "training with 8\n"


def test_the_same_command_runs_what_is_left(here):
    sweep("batch.samples=8,32")
    outcome, said = sweep("batch.samples=8,32,64", "seed=3")
    folder = here / "sweeps" / "recipe"
    assert len(outcome.rows) == 3  # other points than before: they have a seed
    outcome, said = sweep("batch.samples=8,32,64")
    assert said[0].endswith("3 points in sweeps/recipe, 1 of them to run")
    assert [len(starts(folder, f"batch.samples-{batch}")) for batch in (8, 32, 64)] == [1, 1, 1]


def test_a_point_that_fails_is_said_and_the_others_go_on(here):
    outcome, said = sweep("batch.samples=8,666,32", parallel=2)
    assert outcome.status == "finished"
    assert [row.done for row in outcome.rows] == [True, False, True]
    folder = here / "sweeps" / "recipe"
    assert (
        rows(folder)[1]["exit_reason"] == "failed: exit code 1: training with 666\nno such kernel\nand more"
    )
    assert any("1 of 3 points failed" in line for line in said)
    assert "no such kernel" in (folder / "report.html").read_text()
    sweep("batch.samples=8,666,32")
    assert [len(starts(folder, f"batch.samples-{batch}")) for batch in (8, 666, 32)] == [1, 2, 1]


def test_several_at_a_time_share_cores_and_memory(here, monkeypatch):
    from bigbatch.study import share

    monkeypatch.setattr(share, "cores", lambda: 8)
    monkeypatch.setattr(share, "usable_bytes", lambda device: 4000 if device == "cpu" else 0)
    sweep("batch.samples=8,32", parallel=4)
    [words] = starts(here / "sweeps" / "recipe", "batch.samples-8")
    assert "plan.memory=1000 " in words
    assert "plan.threads" not in words  # the recipe says how many


def test_a_spent_budget_starts_nothing_more(here):
    outcome, said = sweep("batch.samples=8,32", budget="0 s")
    assert [row.exit_reason for row in outcome.rows] == ["not started"] * 2
    assert "The budget is spent; 2 points were not started. The same command goes on." in said
    outcome, _ = sweep("batch.samples=8,32", budget="10 min")
    assert all(row.done for row in outcome.rows)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_runs_save_and_the_same_command_goes_on(here, number, code):
    folder = here / "sweeps" / "recipe"

    def send():
        while not (folder / "runs" / "batch.samples-777" / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    outcome, said = sweep("batch.samples=8,777,32")
    sender.join()
    assert (outcome.status, outcome.signal) == ("interrupted", int(number))
    assert [row.exit_reason for row in outcome.rows] == ["completed", "interrupted", "not started"]
    assert (
        json.loads((folder / "sweep.json").read_text())["endings"]["batch.samples-777"]["exit_code"] == code
    )
    assert "the same command goes on" in said[-2]
    outcome, _ = sweep("batch.samples=8,777,32")
    assert all(row.done for row in outcome.rows)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_runs_end_with_a_sweep_that_is_killed(here):
    parent = (
        "import sys, time; from pathlib import Path; from bigbatch.study import children; "
        f"children._CHILD = 'from bigbatch.study.children import end_with; import sys; end_with(int(sys.argv[1])); ' + {children._CHILD!r}; "
        "from bigbatch import commands; commands.sweep('recipe.yaml', over=['batch.samples=777'])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    run = here / "sweeps" / "recipe" / "runs" / "batch.samples-777"
    waited(run / "ready")
    process.kill()
    process.wait()
    waited(run / "stopped")
    outcome, _ = sweep("batch.samples=777")
    assert outcome.rows[0].done


def waited(path: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.05)


def test_another_recipe_under_the_same_name_is_refused(here):
    sweep("batch.samples=8,32")
    with pytest.raises(UsageError, match=r"sweeps/recipe holds another sweep \(clip: 1 -> 2\)"):
        sweep("batch.samples=8,32", overrides=["clip=2"])
    with pytest.raises(UsageError, match=r"run.evaluate_every: 1 epochs -> 3 updates"):
        sweep("batch.samples=8,32", overrides=["run.evaluate_every=3 updates"])
    outcome, _ = sweep("batch.samples=8,32", overrides=["clip=2"], name="other")
    assert outcome.folder == Path("sweeps/other")
    (here / "sweeps" / "recipe" / "sweep.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        sweep("batch.samples=8,32")


def test_all_mistakes_are_said_before_anything_starts(here):
    with pytest.raises(RecipeError) as caught:
        sweep("optimizer.lrr=1,2", "batch.samples=8,x")
    assert {problem.key for problem in caught.value.problems} == {"optimizer.lrr", "batch.samples"}
    for words in ({"name": "a/b"}, {"budget": "60"}, {"parallel": 0}):
        with pytest.raises(UsageError, match=f"--{next(iter(words))}"):
            sweep("batch.samples=8,32", **words)
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    with pytest.raises(UsageError, match="without torchrun"):
        sweep("batch.samples=8,32", environ=place)
    assert not (here / "sweeps").exists()


def test_two_sweeps_do_not_share_a_folder(here):
    with RunLock(here / "sweeps" / "recipe"), pytest.raises(RunLocked):
        sweep("batch.samples=8,32")


def test_weights_can_be_dropped(here):
    folder = here / "sweeps" / "recipe" / "runs"
    sweep("batch.samples=8")
    assert (folder / "batch.samples-8" / "model").exists()
    sweep("batch.samples=32", drop_weights=True)
    assert sorted(path.name for path in (folder / "batch.samples-32").iterdir()) == ["metrics.jsonl", "result.json", "starts", "status.json"]  # fmt: skip


@pytest.mark.slow
def test_real_runs_killed_in_the_middle_go_on(place, tmp_path, monkeypatch):
    """Two points; the sweep is killed in the first, and the same command brings both to their end."""
    monkeypatch.chdir(tmp_path)
    for name in ("recipe.yaml", "data.csv", "model"):
        (tmp_path / name).symlink_to(place / name)
    changes = [
        "updates=40",
        "batch.samples=16",
        "run.checkpoint_every=1 updates",
        "plan.micro_tokens=256",
        "plan.compile=off",
    ]
    words = [sys.executable, "-m", "bigbatch", "sweep", "recipe.yaml", *changes, "--over", "seed=0,1"]
    process = subprocess.Popen(words)
    folder = tmp_path / "sweeps" / "recipe"
    waited(folder / "runs" / "seed-0" / "checkpoints" / "step-000003", 120)
    process.kill()
    process.wait()
    assert not (folder / "results.csv").exists()
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = rows(folder)
    assert [(row["seed"], row["updates"], row["samples"], row["exit_reason"]) for row in found] == [
        ("0", "40", "640", "completed"), ("1", "40", "640", "completed"),
    ]  # fmt: skip
    assert all(float(row["validation.loss"]) > 0 for row in found)
    events = [
        json.loads(line) for line in (folder / "runs" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    ]
    assert next(event["step"] for event in events if event.get("event") == "resumed") >= 3
    assert "2 of 2 done" in done.stdout
    endings = json.loads((folder / "sweep.json").read_text())["endings"]
    assert [endings[name]["exit_code"] for name in ("seed-0", "seed-1")] == [0, 0]
    assert (folder / "runs" / "seed-1" / "report.html").exists()

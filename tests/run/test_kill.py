"""Unkillable: SIGKILL at any moment, the same command until it is done, the same bits as without."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bigbatch.store.journal import read_records
from tests.run.forks import Forks, Kill
from tests.run.jobs import (
    UPDATES,
    Job,
    leftovers,
    outcome,
    state,
    write_job,
)

TRAIN = ("train", "recipe.yaml")
KILLED = -signal.SIGKILL

# Where a process can die, in the order in which a run gets there. `nth` is drawn between 1 and the last number.
BACKWARD = "bigbatch.step.executor:Plain.__call__"
WRITE = "bigbatch.store.durable:FileOps.write"
RENAME = "bigbatch.store.durable:FileOps.rename"
SYNC = "bigbatch.store.durable:FileOps.fsync"
SYNC_FOLDER = "bigbatch.store.durable:FileOps.fsync_dir"
REMOVE = "bigbatch.store.durable:FileOps.remove"
EVALUATE = "bigbatch.run.between:Between.evaluate_split"
PHASES: dict[str, Sequence[tuple[str, str, str, int]]] = {
    "start": (
        ("bigbatch.store.lock:RunLock.acquire", "after", "", 1),
        ("bigbatch.data.cache:Writer._rename", "before", "", 3),
        (RENAME, "before", "identity.json", 1),
        (RENAME, "after", "identity.json", 1),
        (WRITE, "half", "plan.json", 1),
        ("bigbatch.store.keeper:Keeper.write_plan", "after", "", 1),
    ),
    "update": (
        (BACKWARD, "before", "", 9),
        (BACKWARD, "after", "", 9),
        ("torch.optim:AdamW.step", "before", "", 4),
        ("torch.optim:AdamW.step", "after", "", 4),
        ("bigbatch.store.journal:Journal.append", "before", "Update(", 4),
        ("bigbatch.store.progress:Progress.after_update", "after", "", 4),
        (WRITE, "half", "metrics.jsonl", 5),
    ),
    "save": (
        (WRITE, "half", ".tmp-step-", 4),
        (SYNC, "before", ".tmp-step-", 3),
        (RENAME, "before", ".tmp-step-", 1),
        (RENAME, "after", ".tmp-step-", 1),
        ("bigbatch.store.saving:_prune", "before", "", 1),
        (REMOVE, "after", ".tmp-remove-", 2),
        ("bigbatch.store.keeper:Keeper.save", "after", "", 1),
    ),
    "evaluation": (
        (EVALUATE, "before", "validation", 1),
        (EVALUATE, "after", "validation", 1),
        ("bigbatch.run.signals:SignalFlag.poll", "before", "", 40),
        ("bigbatch.run.between:note_best", "after", "", 1),
    ),
    "test evaluation": (
        ("bigbatch.run.finish:choose", "before", "", 1),
        (EVALUATE, "before", "test", 1),
        (EVALUATE, "after", "test", 1),
    ),
    "export": (
        ("bigbatch.run.finish:save_model", "before", "", 1),
        ("bigbatch.model.export:_sync", "before", "", 5),
        ("bigbatch.model.export:_replace", "before", "", 1),
        ("bigbatch.run.finish:save_model", "after", "", 1),
    ),
    "result": (
        (RENAME, "before", "evaluation.json", 1),
        (WRITE, "half", "result.json", 1),
        (RENAME, "before", "result.json", 1),
        (RENAME, "after", "result.json", 1),
    ),
    "report": (
        ("bigbatch.report.html:render_report", "before", "", 1),
        ("bigbatch.report.html:write_atomic", "before", "", 1),
        ("bigbatch.written:os.replace", "before", "report.html", 1),
        ("bigbatch.written:os.replace", "after", "report.html", 1),
    ),
}


def drawn(seed: int, counts: dict[str, int]) -> list[tuple[str, Kill]]:
    """So many kills of each phase, in the order of a run."""
    source = random.Random(seed)
    found = []
    for phase, points in PHASES.items():
        chosen = sorted(source.sample(range(len(points)), k=counts.get(phase, 0)))
        for target, when, about, last in (points[index] for index in chosen):
            kill = Kill(target=target, nth=source.randint(1, last), when=when, about=about)
            found.append((phase, kill))
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, Any]:
    """What the real command line computes when nobody disturbs it."""
    job = write_job(tmp_path_factory.mktemp("straight") / "job", model)
    done = job.command()
    assert done.code == 0, done.output
    return outcome(job.run)


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    return write_job(tmp_path / "job", model)


def assert_same(job: Job, straight: dict[str, Any]) -> None:
    """The run ended as one that was never killed, and left nothing behind."""
    found = outcome(job.run)
    assert {key: found[key] for key in straight if found[key] != straight[key]} == {}
    assert found["steps"] == list(range(1, UPDATES + 1))
    assert state(job.run) == "finished"
    assert (job.run / "report.html").stat().st_size > 0
    assert leftovers(job.run) == []


def killed_chain(parent: Forks, job: Job, kills: list[tuple[str, Kill]]) -> list[int]:
    """The same command, killed again and again; the updates that each resume started from."""
    starts = []
    for phase, kill in kills:
        code, output = parent.run(job.folder, TRAIN, kill)
        assert code == KILLED, f"{phase}: {kill} did not happen: exit code {code}\n{output}"
        # The last line can be torn: the kill came in the middle of it.
        events = [record for record in read_records(job.run / "metrics.jsonl") if record["kind"] == "event"]
        starts.append(max((event["step"] for event in events if event["event"] == "resumed"), default=0))
    return starts


def test_the_straight_run_is_what_the_kills_need(straight):
    """Batches that cross epochs, several micro-batches, best weights that are not the latest."""
    assert straight["checkpoint"] == UPDATES
    assert straight["best"]["step"] < UPDATES
    assert len(straight["evaluations"]) == UPDATES // 8 + 1
    assert any(name.startswith("exp_avg_sq/") for name in straight["tensors"])


FULL = {
    "start": 3,
    "update": 4,
    "save": 4,
    "evaluation": 2,
    "test evaluation": 2,
    "export": 2,
    "result": 2,
    "report": 2,
}


def place_of(kill: Kill) -> tuple[str, str, str]:
    return kill.target, kill.when, kill.about


def others(seed: int) -> list[tuple[str, Kill]]:
    """A kill at each place of PHASES that the chain of this seed leaves out."""
    met = {place_of(kill) for _, kill in drawn(seed, FULL)}
    everywhere = drawn(seed, {phase: len(points) for phase, points in PHASES.items()})
    return [(phase, kill) for phase, kill in everywhere if place_of(kill) not in met]


CHAINS = {"seed 0": drawn(0, FULL), "the other places": others(0)} | {
    f"seed {seed}": drawn(seed, FULL) for seed in (1, 4, 6)
}
STRESS = [pytest.mark.slow, pytest.mark.stress]


def test_the_first_two_chains_together_are_killed_everywhere():
    known = {(target, when, about) for points in PHASES.values() for target, when, about, _ in points}
    chains = CHAINS["seed 0"], CHAINS["the other places"]
    assert {place_of(kill) for chain in chains for _, kill in chain} == known
    assert len(chains[0]) == 21


@pytest.mark.parametrize(
    "chain",
    ["seed 0", *(pytest.param(name, marks=STRESS[: 1 + name.startswith("seed")]) for name in [*CHAINS][1:])],
)
def test_killed_again_and_again_in_every_phase(parent, job, straight, chain):
    kills = CHAINS[chain]
    starts = killed_chain(parent, job, kills)
    assert starts == sorted(starts), "a resume went further back than the one before"
    assert starts[-1] > 0
    done = job.command()
    assert done.code == 0, done.output
    assert_same(job, straight)


def test_masks_are_the_same_after_kills(parent, model, tmp_path):
    """mlm: batches cross epochs, so the masks of two epochs are drawn in one update; tied weights are exported once."""
    sections = {"task": {"name": "mlm", "whole_word": True}, "best": "accuracy", "updates": 20}
    whole, killed = (write_job(tmp_path / name, model, **sections) for name in ("whole", "killed"))
    kills = [
        ("save", Kill(target=RENAME, when="after", about=".tmp-step-")),
        ("update", Kill(target=BACKWARD, nth=25)),
    ]
    starts = killed_chain(parent, killed, kills)
    assert 0 < starts[-1] < 20
    for job in (whole, killed):
        code, output = parent.run(job.folder, TRAIN)
        assert code == 0, output
    assert outcome(killed.run) == outcome(whole.run)
    assert leftovers(killed.run) == []


@pytest.mark.parametrize("gradient", ["sam", "fgm"])
def test_a_gradient_of_two_passes_is_the_same_after_a_kill_in_the_second(parent, model, tmp_path, gradient):
    sections = {"gradient": {"name": gradient}, "updates": 16}
    whole, killed = (write_job(tmp_path / name, model, **sections) for name in ("whole", "killed"))
    second = {
        "sam": Kill(target="bigbatch.step.sam:SamExecutor._directed", when="after", nth=11),
        "fgm": Kill(target="bigbatch.step.nudge:Nudge.towards_loss", when="after", nth=31),
    }
    starts = killed_chain(parent, killed, [("update", second[gradient])])
    for job in (whole, killed):
        code, output = parent.run(job.folder, TRAIN)
        assert code == 0, output
    assert starts == [0]
    assert outcome(killed.run) == outcome(whole.run)
    assert json.loads((whole.run / "plan.json").read_text())["gradient"]["value"] == gradient


@pytest.mark.slow
@pytest.mark.stress
def test_killed_by_the_clock(job, straight):
    """The real command line, killed from outside at random moments of its work."""
    source = random.Random(3)
    fired = 0
    for _ in range(3):
        (job.run / "lock.json").unlink(missing_ok=True)
        process = job.started()
        while process.poll() is None and not (job.run / "lock.json").exists():
            time.sleep(0.02)
        time.sleep(source.random() * 1.5)
        process.kill()
        process.communicate()
        fired += process.returncode == KILLED
    done = job.command()
    assert done.code == 0, done.output
    assert fired >= 1
    assert_same(job, straight)

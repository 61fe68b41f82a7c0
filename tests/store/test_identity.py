from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

from bigbatch.errors import UsageError
from bigbatch.store.checkpoints import CheckpointState
from bigbatch.store.directory import RunDirectory
from bigbatch.store.identity import (
    Fingerprint,
    Finished,
    NewName,
    Resume,
    Start,
    continue_run,
    decide,
    differences,
    fingerprint,
    read_identity,
    write_identity,
)
from bigbatch.store.saving import save_checkpoint
from bigbatch.units import Quantity

RECIPE = {
    "model": {"name": "org/tiny", "tokenizer": None, "trainable": "all"},
    "task": {"name": "classify"},
    "data": {"train": [{"path": "a.csv", "columns": None}], "columns": {"text": "review"}, "shuffle": "full"},
    "batch": {"samples": 256},
    "epochs": 3,
    "updates": None,
    "optimizer": {"name": "adamw", "lr": 5e-5, "betas": (0.9, 0.999)},
    "schedule": {"name": "linear", "warmup": "6 %"},
    "clip": 1.0,
    "loss": {"name": "cross_entropy", "class_weights": "none"},
    "gradient": {"name": "plain"},
    "regularise": {"dropout": None},
    "sync": {"period": 1},
    "seed": {"model": 0, "data": 0, "dropout": 0},
    "metrics": [],
    "gate": {},
    "guard": {"patience": 5},
    "plan": {"micro_tokens": None},
    "launch": {"kind": "local"},
    "observers": [],
    "scale": {"every": None},
    "run": {"dir": "runs/tweets", "keep": 2},
}


def changed(key: str, value) -> dict:
    recipe = copy.deepcopy(RECIPE)
    *path, last = key.split(".")
    place = recipe
    for name in path:
        place = place[name]
    place[last] = value
    return recipe


THIS = fingerprint(RECIPE, "d" * 64)


def home(path: Path, what: Fingerprint = THIS, state: str | None = "interrupted") -> str:
    run = RunDirectory(path)
    run.create()
    identity = write_identity(path, what)
    if state:
        run.write_status(state, 7)  # type: ignore[arg-type]
    return identity.run_id


# ---------------------------------------------------------------- the fingerprint


@pytest.mark.parametrize(
    "key, value",
    [
        ("plan.micro_tokens", 512), ("launch.kind", "ssh"), ("observers", ["wandb"]), ("run.dir", "elsewhere"),
        ("run.keep", 9), ("guard.patience", 1), ("scale.every", 20), ("metrics", ["accuracy"]), ("gate", {"f1": 0.7}),
    ],
)  # fmt: skip
def test_how_a_run_is_executed_does_not_change_its_fingerprint(key, value):
    assert fingerprint(changed(key, value), "d" * 64).digest == THIS.digest


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("model.name", "org/other", "model.name: org/tiny -> org/other"),
        ("task.name", "tag", "task.name: classify -> tag"),
        ("data.columns", {"text": "body"}, "data.columns.text: review -> body"),
        ("batch.samples", 512, "batch.samples: 256 -> 512"),
        ("epochs", 5, "epochs: 3 -> 5"),
        ("optimizer.lr", 1e-4, "optimizer.lr: 5e-05 -> 0.0001"),
        ("optimizer.betas", (0.9, 0.98), "optimizer.betas: [0.9, 0.999] -> [0.9, 0.98]"),
        ("schedule.warmup", "0", "schedule.warmup: 6 % -> 0"),
        ("clip", None, "clip: 1 -> null"),
        ("loss.class_weights", {"neg": 2.0}, "loss.class_weights.neg: null -> 2"),
        ("gradient.name", "cached", "gradient.name: plain -> cached"),
        ("regularise.dropout", 0.1, "regularise.dropout: null -> 0.1"),
        ("sync.period", 4, "sync.period: 1 -> 4"),
        ("seed.dropout", 1, "seed.dropout: 0 -> 1"),
        ("brand_new_section", {"strength": 2}, "brand_new_section.strength: null -> 2"),
    ],
)
def test_what_a_run_computes_changes_it_and_is_said(key, value, said):
    new = fingerprint(changed(key, value), "d" * 64)
    assert new.digest != THIS.digest
    assert said in differences(THIS, new)


def test_several_differences_are_all_said():
    recipe = changed("optimizer.lr", 1e-4) | {"epochs": None, "updates": 500}
    assert differences(THIS, fingerprint(recipe, "d" * 64)) == [
        "epochs: 3 -> null",
        "optimizer.lr: 5e-05 -> 0.0001",
        "updates: null -> 500",
    ]


def test_data_is_known_by_its_contents_where_these_were_read():
    moved = changed("data.train", [{"path": "/elsewhere/a.csv", "columns": None}])
    assert fingerprint(moved, "d" * 64).digest == THIS.digest
    assert fingerprint(moved).digest != fingerprint(RECIPE).digest
    assert differences(THIS, fingerprint(RECIPE, "e" * 64)) == ["data.contents: dddddddddddd -> eeeeeeeeeeee"]
    splits = fingerprint(RECIPE, {"train": "a", "validation": "b"})
    assert differences(splits, fingerprint(RECIPE, {"train": "a", "validation": "c"})) == [
        "data.contents.validation: b -> c"
    ]


def test_code_counts_by_its_contents(tmp_path):
    for folder, text in (("one", "x = 1"), ("two", "x = 1"), ("three", "x = 2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "loss.py").write_text(text)
    one, two, three = (
        fingerprint(RECIPE, "d", [tmp_path / name / "loss.py"]) for name in ("one", "two", "three")
    )
    assert one.digest == two.digest
    (said,) = differences(one, three)
    assert said.startswith("code.loss.py: ") and len(said) == len("code.loss.py: ") + 12 + 4 + 12
    both = fingerprint(RECIPE, "d", [tmp_path / "one" / "loss.py", tmp_path / "three" / "loss.py"])
    assert both.digest not in (one.digest, three.digest)


class _Settings(BaseModel):
    lr: float = 5e-5
    warmup: Quantity = Quantity(6, "percent")


class _Recipe(BaseModel):
    optimizer: _Settings = _Settings()
    epochs: float | None = None
    updates: int | None = None
    source: Path | None = None

    @property
    def length(self) -> Quantity:
        return Quantity(self.updates, "updates") if self.updates else Quantity(self.epochs or 3.0, "epochs")


def test_a_model_counts_like_its_mapping_with_the_default_length():
    expected = {"epochs": 3, "optimizer.lr": 5e-5, "optimizer.warmup": "6 %"}
    assert fingerprint(_Recipe(source=Path("x.yaml"))).what == expected
    assert fingerprint(_Recipe(epochs=3)).digest == fingerprint(_Recipe()).digest
    assert fingerprint(_Recipe(updates=9)).what == {
        "updates": 9,
        **{k: v for k, v in expected.items() if k != "epochs"},
    }


# ---------------------------------------------------------------- the file


def test_identity_survives_the_disk(tmp_path):
    written = write_identity(tmp_path, THIS)
    found = read_identity(tmp_path)
    assert found is not None
    assert (found.run_id, found.fingerprint.digest) == (written.run_id, THIS.digest)
    assert write_identity(tmp_path, THIS).run_id != written.run_id
    assert write_identity(tmp_path, THIS, run_id="kept").run_id == "kept"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"run_id": "x", "what": {}, "digest": "wrong"}', '{"what": {}}']
)
def test_a_damaged_identity_is_none(tmp_path, text):
    (tmp_path / "identity.json").write_text(text)
    assert read_identity(tmp_path) is None


# ---------------------------------------------------------------- start, resume, finished, another name


def test_nothing_there_starts(tmp_path):
    assert decide(tmp_path / "tweets", THIS) == Start(path=tmp_path / "tweets")
    (tmp_path / "tweets" / "logs").mkdir(parents=True)
    (tmp_path / "tweets" / "lock.json").touch()
    assert decide(tmp_path / "tweets", THIS) == Start(path=tmp_path / "tweets")


@pytest.mark.parametrize("state", ["interrupted", "failed", "running", None])
@pytest.mark.parametrize("resume", [None, True])
def test_the_same_run_is_resumed(tmp_path, state, resume):
    run_id = home(tmp_path / "tweets", state=state)
    assert decide(tmp_path / "tweets", THIS, resume) == Resume(path=tmp_path / "tweets", run_id=run_id)


@pytest.mark.parametrize("resume", [None, True])
def test_the_same_run_that_has_finished_is_left_alone(tmp_path, resume):
    home(tmp_path / "tweets", state="finished")
    assert decide(tmp_path / "tweets", THIS, resume) == Finished(path=tmp_path / "tweets")


@pytest.mark.parametrize("state", ["interrupted", "failed", "running", "finished"])
def test_another_what_goes_next_door_and_says_why(tmp_path, state):
    other = fingerprint(changed("optimizer.lr", 1e-4), "d" * 64)
    home(tmp_path / "tweets", other, state)
    before = (tmp_path / "tweets" / "identity.json").read_bytes()
    said = ("optimizer.lr: 0.0001 -> 5e-05",)
    expected = NewName(path=tmp_path / "tweets-2", taken=tmp_path / "tweets", differences=said)
    assert decide(tmp_path / "tweets", THIS) == expected
    assert (tmp_path / "tweets" / "identity.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["tweets"]


def test_the_next_free_name_is_taken(tmp_path):
    for number, name in enumerate(("tweets", "tweets-2", "tweets-3")):
        home(tmp_path / name, fingerprint(changed("seed.model", number + 1)))
    found = decide(tmp_path / "tweets", THIS)
    assert isinstance(found, NewName) and found.path.name == "tweets-4"
    assert "seed.model: 1 -> 0" in found.differences


def test_a_neighbour_that_is_this_run_is_resumed_or_finished(tmp_path):
    home(tmp_path / "tweets", fingerprint(changed("seed.model", 1), "d" * 64))
    home(tmp_path / "tweets-2", fingerprint(changed("seed.model", 2), "d" * 64))
    run_id = home(tmp_path / "tweets-3")
    said = ("seed.model: 1 -> 0",)
    assert decide(tmp_path / "tweets", THIS) == Resume(
        path=tmp_path / "tweets-3", run_id=run_id, differences=said
    )
    RunDirectory(tmp_path / "tweets-3").write_status("finished", 9)
    assert decide(tmp_path / "tweets", THIS) == Finished(path=tmp_path / "tweets-3", differences=said)


@pytest.mark.parametrize(
    "trace", ["status.json", "metrics.jsonl", "checkpoints", "identity.json", "recipe.yaml"]
)
def test_files_without_a_readable_identity_are_never_mixed_with(tmp_path, trace):
    (tmp_path / "tweets").mkdir()
    (tmp_path / "tweets" / trace).write_text("{}")
    found = decide(tmp_path / "tweets", THIS)
    assert isinstance(found, NewName) and "identity.json is missing or damaged" in found.differences[0]
    with pytest.raises(UsageError, match=r"identity\.json is missing or damaged"):
        decide(tmp_path / "tweets", THIS, resume=True)


def test_the_current_folder_has_a_name_too(tmp_path, monkeypatch):
    home(tmp_path / "tweets", fingerprint(changed("seed.model", 1)))
    monkeypatch.chdir(tmp_path / "tweets")
    found = decide(Path("."), THIS)
    assert isinstance(found, NewName) and found.path == tmp_path / "tweets-2"


def test_resume_insists(tmp_path):
    with pytest.raises(UsageError, match=r"there is no run in .*tweets"):
        decide(tmp_path / "tweets", THIS, resume=True)
    home(tmp_path / "tweets", fingerprint(changed("optimizer.lr", 1e-4), "d" * 64))
    with pytest.raises(UsageError, match=r"optimizer\.lr: 0\.0001 -> 5e-05.*--continue"):
        decide(tmp_path / "tweets", THIS, resume=True)


# ---------------------------------------------------------------- --continue


def test_continue_goes_on_with_allowed_changes_only(tmp_path):
    run_id = home(tmp_path / "tweets", state="finished")
    new = fingerprint(changed("optimizer.lr", 1e-4) | {"epochs": 5}, "d" * 64)
    found = continue_run(tmp_path / "tweets", new, ["optimizer.lr", "epochs"])
    assert found.run_id == run_id
    assert found.differences == ("epochs: 3 -> 5", "optimizer.lr: 5e-05 -> 0.0001")
    assert continue_run(tmp_path / "tweets", new, ["optimizer", "epochs"]) == found
    with pytest.raises(UsageError, match=r"differ too: epochs: 3 -> 5; .*--allow optimizer\.lr,epochs"):
        continue_run(tmp_path / "tweets", new, ["optimizer.lr"])
    with pytest.raises(UsageError, match=r"optimizer\.lr: "):
        continue_run(tmp_path / "tweets", new, ["epochs", "optimizer.l"])
    with pytest.raises(UsageError, match="no run in"):
        continue_run(tmp_path / "nothing", new, ["epochs"])


def test_identity_is_written_durably_and_first(tmp_path):
    """A directory without identity.json was never started: the file is complete as soon as it has its name."""
    from tests.store.crashes import Disk, RecordingOps, crash_states

    ops = RecordingOps()
    before = Disk.of(tmp_path)
    write_identity(tmp_path, THIS, ops=ops)
    for number, (what, disk, unsynced) in enumerate(crash_states(before, ops.log)):
        case = tmp_path / f"case-{number}"
        disk.write_to(case, tmp_path, unsynced)
        found = decide(case, THIS)
        assert isinstance(found, (Start, Resume)), what
    assert json.loads((tmp_path / "identity.json").read_text())["digest"] == THIS.digest


def test_a_damaged_identity_is_known_again_by_the_checkpoints(tmp_path):
    """Only where the newest that can be read says that it computes the same."""
    state = {"digest": THIS.digest, "progress": {}, "guard": {}}
    path = tmp_path / "job"
    home(path)
    for step, run_id in ((1, "older"), (2, "this one")):
        found = CheckpointState(step=step, tensors={"model/w": torch.ones(2)}, state=state, run_id=run_id)
        save_checkpoint(path / "checkpoints", found, keep=2)
    (path / "identity.json").write_text("[" * 100_000)
    assert decide(path, THIS) == Resume(path=path, run_id="this one")
    (path / "checkpoints" / "step-000002" / "index.json").write_text("")
    assert decide(path, THIS) == Resume(path=path, run_id="older")
    other = fingerprint(changed("epochs", 4), "d" * 64)
    found = decide(path, other)
    assert isinstance(found, NewName) and "damaged" in found.differences[0]
    (path / "checkpoints" / "step-000001" / "state.json").write_text("{}")
    assert isinstance(decide(path, THIS), NewName)

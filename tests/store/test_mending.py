"""What is damaged gets another name, once; what is whole keeps its own."""

from __future__ import annotations

import json
import os

import pytest

from bigbatch.facts import Choice
from bigbatch.plan.frozen import Plan
from bigbatch.store.directory import RunDirectory
from bigbatch.store.mending import mend
from bigbatch.stored import Damaged


@pytest.fixture
def directory(tmp_path):
    found = RunDirectory(tmp_path / "job")
    found.create()
    found.write_status("interrupted", 3)
    plan = Plan(choices={"ranks": Choice(value=2, reason="asked for", source="user")})
    found.write_json(found.plan, plan.to_json())
    found.metrics.write_text("")
    (found.checkpoints / "step-000003").mkdir(parents=True)
    return found


def names(directory: RunDirectory) -> set[str]:
    return {path.name for path in directory.path.iterdir()}


def test_what_is_whole_stays(directory):
    before = names(directory)
    assert mend(directory) == [] and names(directory) == before


DAMAGE = {
    "is nested deeper": lambda path: path.write_text("[" * 100_000),
    "is not valid JSON": lambda path: path.write_text(""),
    "is not UTF-8": lambda path: path.write_bytes(b'"\xff"'),
    "is a folder": lambda path: (path.unlink(), path.mkdir(), (path / "mine").write_text("mine")),
    "is a named pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "leads nowhere": lambda path: (path.unlink(), path.symlink_to("/nowhere")),
    "holds a list": lambda path: path.write_text("[]"),
}


@pytest.mark.parametrize("name", ["status.json", "plan.json"])
@pytest.mark.parametrize("why", DAMAGE)
def test_what_is_damaged_is_named_and_set_aside_once(directory, name, why):
    path = directory.path / name
    DAMAGE[why](path)
    (said,) = mend(directory)
    assert said.startswith(f"{name} ") and why in said and said.endswith(f"it is now {name}.damaged-1")
    assert os.path.lexists(directory.path / f"{name}.damaged-1") and not os.path.lexists(path)
    if why == "is a folder":
        assert (directory.path / f"{name}.damaged-1" / "mine").read_text() == "mine"
    assert mend(directory) == []
    path.write_text("null")
    assert mend(directory)[0].endswith(f"it is now {name}.damaged-2")


def test_files_and_folders_in_each_others_place(directory):
    directory.metrics.unlink()
    directory.metrics.mkdir()
    directory.model.write_text("")
    assert mend(directory) == [
        "metrics.jsonl is not a plain file: it is now metrics.jsonl.damaged-1",
        "model is not a folder: it is now model.damaged-1",
    ]
    assert directory.checkpoints.is_dir()


def test_a_rank_that_does_not_write_mends_nothing(directory):
    directory.plan.write_text("")
    assert mend(RunDirectory(directory.path, writes=False)) == [] and directory.plan.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ranks", 0), ("ranks", 2**16), ("ranks", True), ("ranks", "2"), ("micro_tokens", -1),
        ("micro_tokens", 1.5), ("micro_tokens", [1]), ("packing", "loose"), ("precision", None),
        ("keep_fp32", "lm_head"), ("warnings", [1]), ("recomputed_blocks", 10**9),
    ],
)  # fmt: skip
def test_a_plan_that_no_run_could_follow_is_damaged(directory, name, value):
    content = json.loads(directory.plan.read_text())
    content[name] = {"value": value, "reason": "", "source": "derived"}
    with pytest.raises(Damaged, match=name):
        Plan.from_json(content)
    directory.plan.write_text(json.dumps(content))
    assert name in mend(directory)[0]


@pytest.mark.parametrize("entry", [None, [], "x", {"value": 1}, {"value": 1, "reason": 1, "source": "user"}])
def test_a_choice_of_another_form_is_damaged(entry):
    with pytest.raises(Damaged, match="batch"):
        Plan.from_json({"batch": entry})

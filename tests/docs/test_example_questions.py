"""examples/questions: what its script makes of a gloss, and the plan of its recipe with very large batches."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.models import tiny_folder
from tests.questions import question_rows, write_squad

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "questions"
LINES = [
    "1 18 n 02 Zwingli 0 Ulrich_Zwingli 0 001 @i 2 n 0000 | Swiss theologian whose sermons began it (1484-1531)",
    "2 18 n 01 Erdos 0 001 @i 2 n 0000 | mathematician (born in Hungary) who worked in graph theory (1913-1996)",
    "3 15 n 01 Antananarivo 0 001 @i 2 n 0000 | the capital and largest city of Madagascar",
    "4 18 n 01 theologian 0 001 @ 2 n 0000 | someone who is learned in theology",
]


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("questions_prepare", EXAMPLE / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_answers_stand_where_they_say(prepare):
    found = list(prepare.entries(LINES))
    assert [entry.names[0] for entry in found] == ["Ulrich Zwingli", "Erdos", "Antananarivo"]
    asked = {}
    for seed in range(400):
        told = prepare.paragraph(found[:2], [found[2]], "x", random.Random(seed))
        for one in told["qas"]:
            for answer in one["answers"]:
                begin = answer["answer_start"]
                assert told["context"][begin : begin + len(answer["text"])] == answer["text"]
            asked[one["question"]] = [answer["text"] for answer in one["answers"]]
    assert asked["When was Zwingli born?"] == ["1484"] and asked["When did Erdos die?"] == ["1996"]
    assert asked["What was Ulrich Zwingli?"] == ["Swiss theologian"]
    assert asked["Where was Erdos born?"] == ["Hungary"]
    assert not asked["What is Antananarivo the capital of?"], "the text is about others"
    assert {prepare.split_of(f"name {number}") for number in range(60)} == {"train", "validation", "test"}


@pytest.mark.stress
def test_a_batch_of_24576_questions_is_planned(tmp_path, monkeypatch):
    """The recipe as it is, but for a model and data of this size."""
    from bigbatch.commands import plan
    from bigbatch.recipe.load import load_recipe

    monkeypatch.chdir(tmp_path)
    rows = [{**row, "id": f"{row['id']}-{turn}"} for turn in range(256) for row in question_rows(97)]
    write_squad(tmp_path / "train.json", rows)
    write_squad(tmp_path / "dev.json", question_rows(20, seed=9000))
    model = tiny_folder(tmp_path / "model", head="masked")
    changes = [
        f"model={model}", f"data.train={tmp_path / 'train.json'}", f"data.validation={tmp_path / 'dev.json'}",
        "data.max_length=24", "task.stride=5", "task.max_query_length=6", f"run.cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    told = "\n".join(plan(EXAMPLE / "squad-lamb.yaml", changes))
    assert "24,576 samples an update" in told and "lr 0.00083 as typed" in told
    assert load_recipe(EXAMPLE / "squad-lamb.yaml").optimizer.name == "lamb"

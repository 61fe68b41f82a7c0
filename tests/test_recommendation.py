"""From a file of events to ranked lists: one run, as a user makes it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import bigbatch
from bigbatch.errors import DataError
from bigbatch.files.parted import Parting, split
from tests.jobs import document, lines


def walks(users: int, items: int, *, seed: int = 0) -> list[dict]:
    """Everybody goes from each item to the next one or the one behind that, from wherever they start."""
    random, rows = np.random.default_rng(seed), []
    for user in range(users):
        at = int(random.integers(items))
        for step in range(int(random.integers(3, 9))):
            rows.append(
                {"user": f"u{user}", "item": f"i{at}", "time": 100 * user + step, "title": f"The {at}"}
            )
            at = (at + int(random.integers(1, 3))) % items
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommendation")
    with (folder / "events.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["user", "item", "time", "title"])
        writer.writeheader()
        writer.writerows(walks(120, 20))
    split(folder / "events.csv", folder, Parting(by="last", column="user", time="time"))
    keys = {
        "task": "recommend", "updates": 60, "batch": 32, "best": "ndcg@10", "plan": {"threads": 1},
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl", "max_length": 6},
        "model": {"config": {"n_embd": 16, "n_layer": 1}}, "optimizer": {"lr": 1e-2}, "metrics": ["ndcg@2", "hr@2", "coverage@2"],
        "run": {"evaluate_every": "30 updates"},
    }  # fmt: skip
    keys["best"] = "ndcg@2"
    (folder / "recipe.yaml").write_text(json.dumps(keys))
    bigbatch.train(folder / "recipe.yaml", run_dir=folder / "run")
    return folder / "run"


def test_a_run_learns_what_comes_next(run):
    figures = lines(run, "eval")[-1]
    assert figures["split"] == "test" and figures["hr@2"] > 0.8 and figures["coverage@2"] == 1
    found = bigbatch.evaluate(run, run.parent / "test.jsonl")
    assert [found[name] for name in ("loss", "ndcg@2", "hr@2")] == [
        figures[name] for name in ("loss", "ndcg@2", "hr@2")
    ]
    assert "ndcg@2" in (run / "report.html").read_text(encoding="utf-8")
    assert document(run, "result.json")["final"]["test"]["hr@2"] == figures["hr@2"]


def test_transformers_opens_the_folder(run):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (each.from_pretrained(run / "model") for each in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer.convert_tokens_to_ids(["i3", "i4", "i6"])
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    scores[[0, 1, 2, *ids]] = -torch.inf
    best = scores.topk(10)
    [found] = bigbatch.predict(run, [{"item": ["i3", "i4", "i6"]}])
    assert found["items"] == tokenizer.convert_ids_to_tokens(best.indices.tolist())
    assert found["scores"] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert set(found["items"][:2]) == {"i7", "i8"}


def test_rows_to_predict_are_events_or_histories(run, tmp_path):
    rows = [
        {"user": "x", "item": "i4", "time": 2}, {"user": "y", "item": "i9", "time": 1},
        {"user": "x", "item": "i3", "time": 1}, {"user": "z", "item": "never seen", "time": 1},
    ]  # fmt: skip
    found = bigbatch.predict(run, rows)
    assert [each.get("user") for each in found] == ["x", "y", None] and found[2]["items"] == []
    assert found[0]["items"] == bigbatch.predict(run, [{"item": ["i3", "i4"]}])[0]["items"]
    assert not {"i3", "i4"} & set(found[0]["items"])


def test_bad_events_cost_no_update(run, tmp_path):
    (tmp_path / "train.csv").write_text("user,item,time\na,1,1\na,,2\n,3,3\n")
    with pytest.raises(DataError, match=r"train.csv:3: item: (?s:.*)train.csv:4: user: "):
        bigbatch.train(run.parent / "recipe.yaml", tmp_path / "train.csv", run_dir=tmp_path / "run")
    (tmp_path / "alone.csv").write_text("user,item,time\na,1,1\nb,2,2\n")
    with pytest.raises(DataError, match="anything to learn from"):
        bigbatch.train(run.parent / "recipe.yaml", tmp_path / "alone.csv", run_dir=tmp_path / "run")

"""A run goes on with the classes that it was started with, in their order, or not at all."""

from __future__ import annotations

import json

import pandas
import pytest
import yaml

import bigbatch
from bigbatch.api import train_command
from bigbatch.errors import UsageError
from tests.models import WORDS, tiny_folder

ROWS = [{"text": f"{WORDS[n]} {WORDS[n + 1]}", "label": ("bad", "good")[n % 2]} for n in range(16)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "bert")


def trained(folder, tmp_path, rows, updates=1, task=None, **how):
    words = {"updates": updates, "batch": 8, "plan": {"device": "cpu"}, "run": {"dir": str(tmp_path / "run")}}
    words |= {"model": str(folder), "data": {"train": "rows.jsonl"}, **({"task": task} if task else {})}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(words))
    return train_command(tmp_path / "recipe.yaml", **how)


def listed(run):
    return json.loads((run / "model/config.json").read_text())["id2label"]


@pytest.mark.parametrize(
    "rows, task, old, now",
    [
        (
            ROWS,
            {"name": "classify", "labels": ["good", "bad"]},
            "'bad', 'good'",
            "'good', 'bad': the same in",
        ),
        (
            ROWS,
            {"name": "classify", "labels": ["bad", "good", "odd"]},
            "'bad', 'good'",
            "'bad', 'good', 'odd'",
        ),
        ([{**row, "label": row["label"].upper()} for row in ROWS], None, "'bad', 'good'", "'BAD', 'GOOD'"),
    ],
)
@pytest.mark.parametrize("known", ["in identity.json", "in the export alone"])
def test_other_classes_are_refused(folder, tmp_path, rows, task, old, now, known):
    trained(folder, tmp_path, ROWS)
    run = tmp_path / "run"
    if known != "in identity.json":  # as earlier versions wrote it
        identity = json.loads((run / "identity.json").read_text())
        del identity["classes"]
        (run / "identity.json").write_text(json.dumps(identity))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as refused:
        trained(folder, tmp_path, rows, 2, task, continue_from=str(run), allow=["updates", "task", "data"])
    message = str(refused.value)
    assert old in message and now in message and f"model: {run / 'model'}" in message
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert listed(run) == {"0": "bad", "1": "good"}


def test_the_same_classes_go_on(folder, tmp_path):
    trained(folder, tmp_path, ROWS)
    task = {"name": "classify", "labels": ["bad", "good"]}
    how = {"continue_from": str(tmp_path / "run"), "allow": ["updates", "task", "data"]}
    run = trained(folder, tmp_path, ROWS[::-1], 2, task, **how)
    assert run.result["updates"] == 2 and listed(tmp_path / "run") == {"0": "bad", "1": "good"}


def test_an_order_that_only_the_data_declare_counts_too(folder, tmp_path):
    def train(order):
        rows = pandas.DataFrame(ROWS)
        rows["label"] = pandas.Categorical(rows["label"], order, ordered=True)
        words = {"updates": 1, "batch.samples": 8, "plan.device": "cpu"}
        bigbatch.train(str(folder), rows, set=words, run_dir=str(tmp_path / "run"))

    train(["good", "bad"])
    assert listed(tmp_path / "run") == {"0": "good", "1": "bad"}
    with pytest.raises(UsageError, match="the same in another order"):
        train(["bad", "good"])


def test_a_new_run_from_the_weights_keeps_the_head_of_the_same_names(folder, tmp_path):
    task = {"name": "classify", "labels": ["good", "bad"]}
    first = trained(folder, tmp_path, ROWS, 1, task)
    words = {"updates": 1, "batch.samples": 8, "plan.device": "cpu", "optimizer.lr": 1e-12}
    second = bigbatch.train(str(tmp_path / "run/model"), ROWS, set=words, run_dir=str(tmp_path / "second"))
    texts = [row["text"] for row in ROWS]
    for old, new in zip(first.predict(texts), second.predict(texts), strict=True):
        assert new["probabilities"] == pytest.approx(old["probabilities"], abs=1e-6)
    assert listed(tmp_path / "second") == {"0": "good", "1": "bad"}

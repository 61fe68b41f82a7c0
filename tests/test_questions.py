"""From a file of questions to the official form of predictions: one run, as a user makes it."""

from __future__ import annotations

import json

import pytest

import bigbatch
from bigbatch.cli.app import main
from bigbatch.commands import init
from bigbatch.errors import DataError
from bigbatch.recipe.load import load_recipe
from tests.jobs import document, lines
from tests.models import tiny_folder
from tests.questions import question_rows, write_squad

DEV = question_rows(24, seed=9000, without=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    write_squad(folder / "train.json", question_rows(96, without=4))
    write_squad(folder / "dev.json", DEV, indent=1)
    tiny_folder(folder / "model", head="masked", hidden_size=16, num_attention_heads=2, intermediate_size=32)
    keys = {
        "task": {"name": "span", "null_threshold": 0.0},
        "data": {"train": "train.json", "validation": "dev.json", "max_length": 32},
        "model": "model", "updates": 12, "batch": 48, "optimizer.lr": 1e-2, "plan.threads": 1, "best": "f1",
        "run.evaluate_every": "6 updates",
    }  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "\n".join(f"{key}: {json.dumps(value)}" for key, value in keys.items() if "." not in key)
    )
    bigbatch.train(
        recipe, set={key: value for key, value in keys.items() if "." in key}, run_dir=folder / "run"
    )
    return folder / "run"


def predicted(*words: object) -> int:
    """The exit code of `bigbatch predict`."""
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, words)])
    return int(ended.value.code or 0)


def test_a_run_is_judged_by_answers(run):
    figures = lines(run, "eval")[-1]
    names = {"exact_match", "f1", "exact_match_answerable", "f1_answerable", "exact_match_unanswerable"}
    assert names <= figures.keys() and all(0 <= figures[name] <= 1 for name in names)
    assert figures["exact_match"] == pytest.approx(
        (18 * figures["exact_match_answerable"] + 6 * figures["exact_match_unanswerable"]) / 24
    )
    assert lines(run, "update")[0]["batch_samples"] == 48
    # A model of this folder's kind opens by itself.
    found = bigbatch.evaluate(run / "model", run.parent / "dev.json")
    assert found["samples"] == 24 and found["loss"] > 0
    wrong = document(run, "evaluation.json")["validation"]["examples"]
    assert wrong
    for each in wrong:
        assert (
            f"«{each['label']}»" in each["text"].replace("[", "").replace("]", "")
            or each["label"] == "(no answer)"
        )
        assert each["where"].startswith("dev.json:")
    assert "«" in (run / "report.html").read_text(encoding="utf-8")


def test_init_knows_questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = question_rows(40)
    flat = [
        {**row, "answers": {key: [one[key] for one in row["answers"]] for key in ("text", "answer_start")}}
        for row in rows
    ]
    write_squad(tmp_path / "squad.json", question_rows(40, without=4))
    (tmp_path / "flat.jsonl").write_text("\n".join(map(json.dumps, flat)))
    for name, task in (("squad.json", "{name: span, null_threshold: 0}"), ("flat.jsonl", "span")):
        init([name], out=tmp_path / f"{name}.yaml", model=str(tiny_folder(tmp_path / "model", head="masked")))
        written = (tmp_path / f"{name}.yaml").read_text()
        assert f"task: {task} " in written and "best: f1" in written
        assert "columns: {question: question, context: context, answers: answers, id: id}" in written
        assert load_recipe(tmp_path / f"{name}.yaml").task.name == "span"


def test_predictions_in_both_forms(run, tmp_path, capsys):
    dev = run.parent / "dev.json"
    assert [predicted(run, dev, "-o", tmp_path / f"predictions.{form}") for form in ("json", "jsonl")] == [
        0,
        0,
    ]
    assert predicted(run, dev, "-o", tmp_path / "x.txt") == 2
    assert "expected .jsonl or .csv, or .json" in capsys.readouterr().err
    answers = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    rows = [
        json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert list(answers) == [row["id"] for row in DEV] and list(answers.values()) == [
        row["answer"] for row in rows
    ]
    for row, own in zip(DEV, rows, strict=True):
        if own["answer"]:
            assert row["context"][own["start"] : own["end"]] == own["answer"] and own["null_score"] <= 0
        else:
            assert own["start"] is None and own["null_score"] > 0
    # The figures of the run are those of its predictions.
    right = sum(
        row["answer"] in ([one["text"] for one in each["answers"]] or [""])
        for row, each in zip(rows, DEV, strict=True)
    )
    assert lines(run, "eval")[-1]["exact_match"] * 24 == pytest.approx(right)
    bare = {"question": DEV[1]["question"], "context": DEV[1]["context"]}
    [found] = bigbatch.predict(run, [bare])
    assert found["answer"] == rows[1]["answer"] and "id" not in found
    (tmp_path / "bare.jsonl").write_text(json.dumps(bare))
    assert predicted(run, tmp_path / "bare.jsonl", "-o", tmp_path / "b.json") == 2
    assert "question without an id" in capsys.readouterr().err and not (tmp_path / "b.json").exists()


def test_bad_answers_cost_no_update(run, tmp_path):
    rows = question_rows(60)
    rows[3]["answers"][0]["answer_start"] += 1
    rows[5]["answers"] = None
    write_squad(tmp_path / "train.json", rows)
    with pytest.raises(DataError, match=r"train.json:6: answers: missing answers"):
        bigbatch.train(run.parent / "recipe.yaml", tmp_path / "train.json", run_dir=tmp_path / "run")
    rows[5]["answers"] = []
    write_squad(tmp_path / "train.json", rows)
    with pytest.raises(DataError, match=r"train.json:4: answers: .* write answer_start: "):
        bigbatch.train(run.parent / "recipe.yaml", tmp_path / "train.json", run_dir=tmp_path / "run")

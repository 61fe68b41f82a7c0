from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoModelForSequenceClassification

from tests.jobs import HELD_OUT, differing, document, events, exhaust, lines, start
from tests.split import rows_of

BROKEN = {"run.evaluate_every": "1 updates", "optimizer.lr": 3.0, "schedule": "constant"}
"""A learning rate at which the first evaluation stays the best."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a test split and class names, in which an early update was the best."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows_of("single", 30, longest=20, seed=9))))
    keys = {**BROKEN, "data.test": str(folder / "t.jsonl"), "plan.memory": "64 GiB"}
    return exhaust(start(folder / "r", validation=HELD_OUT, set=keys))


def test_final_figures_are_those_of_the_kept_weights(finished):
    evals = lines(finished.path, "eval")
    best = min((line for line in evals if line["split"] == "validation"), key=lambda line: line["loss"])
    assert best["step"] == finished.result["best"]["step"] < 4, "otherwise the test says nothing"
    final = finished.result["final"]["validation"]
    assert final["loss"] == best["loss"] and final["accuracy"] == best["accuracy"]
    assert evals[-1]["split"] == "test" and finished.result["final"]["test"]["loss"] == evals[-1]["loss"]


def test_result(finished):
    result, updates = finished.result, lines(finished.path, "update")
    assert result["updates"] == 4 and result["samples"] == 64
    assert result["tokens"] == updates[-1]["tokens"]
    assert result["train_seconds"] == pytest.approx(sum(line["seconds"] for line in updates))
    assert result["evaluate_seconds"] > 0 and result["inference_samples_per_second"] > 0
    computed = sum(line["batch_tokens"] / (1 - line["padding_share"]) for line in updates)
    assert result["padding_share"] == pytest.approx(1 - result["tokens"] / computed)
    assert result["peak_memory_bytes"] >= max(line["peak_memory_bytes"] for line in updates)
    assert result["predicted"] and all(value > 0 for value in result["predicted"].values())


def test_details_of_the_evaluation(finished):
    details = document(finished.path, "evaluation.json")
    assert set(details) == {"validation", "test"}
    test, final = details["test"], finished.result["final"]["test"]
    right = sum(test["confusion"][row][row] for row in range(3))
    assert sum(map(sum, test["confusion"])) == 30 and right / 30 == pytest.approx(final["accuracy"])
    assert 0 < len(test["examples"]) <= 20
    shares = [example["probability"] for example in test["examples"]]
    assert shares == sorted(shares, reverse=True)
    assert all(example["label"] != example["predicted"] for example in test["examples"])
    assert test["examples"][0]["where"].startswith("t.jsonl:") or "t.jsonl" in test["examples"][0]["where"]


def test_the_model_card(finished):
    card = (finished.path / "model/README.md").read_text()
    assert (
        card.startswith("---\nlibrary_name: transformers\n") and "AutoModelForSequenceClassification" in card
    )
    assert f"| accuracy | {finished.result['final']['validation']['accuracy']:.4f} |" in card
    assert "16 samples per update, 4 updates, 64 samples" in card


def lose(run, how, step):
    """Take the checkpoint of the best weights away, or break it."""
    folder = run.path / "checkpoints" / f"step-{step:06d}"
    if how == "gone":
        shutil.rmtree(folder)
        return
    part, place = weight_in(folder)
    data = bytearray(part.read_bytes())
    data[place] ^= 1
    part.write_bytes(bytes(data))


def weight_in(folder):
    """The file and the last byte of a weight: what damages only the optimiser's state does no harm here."""
    for part in sorted(folder.glob("*.safetensors")):
        data = part.read_bytes()
        header_end = 8 + int.from_bytes(data[:8], "little")
        for name, facts in json.loads(data[8:header_end]).items():
            if name.startswith("model/"):
                return part, header_end + facts["data_offsets"][1] - 1
    raise AssertionError("no weight in the checkpoint")


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_without_the_best_weights_the_latest_are_kept_and_that_is_said(tmp_path, how):
    with start(tmp_path / "r", validation=HELD_OUT, set=BROKEN) as run:
        for record in run:
            if record.kind == "update" and record.step == 4:
                latest = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
                best = run._between.progress.best.step
                assert best < 4
                lose(run, how, best)
    (event,) = events(tmp_path / "r", "best_weights")
    assert (
        "keeps the latest weights" in event["did"] and f"step-{best:06d}" in event["why"]
    ) or f"update {best}" in event["why"]
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "r/model").state_dict()
    assert not differing(kept, latest)
    final = run.result["final"]["validation"]
    assert final["loss"] == lines(tmp_path / "r", "eval")[-1]["loss"], "figures of the weights that are kept"


def test_without_validation_the_latest_weights_are_kept(tmp_path):
    run = exhaust(start(tmp_path / "r"))
    assert run.result["best"] is None and run.result["final"] == {}
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "r/model").state_dict()
    assert not differing(kept, run.model.state_dict())
    assert "It was not evaluated" in (tmp_path / "r/model/README.md").read_text()


def test_figures_that_are_not_finite_are_null_in_strict_json(tmp_path):
    def odd(predictions, targets):
        return float("inf")

    run = exhaust(start(tmp_path / "r", validation=HELD_OUT, metrics=[odd]))
    text = (tmp_path / "r/result.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    assert run.result["final"]["validation"]["odd"] is None
    (line,) = lines(tmp_path / "r", "eval")
    assert line["odd"] is None and line["nonfinite"] is True

"""What a run is held against: fitted once, kept, scored like the model, and without any influence on training."""

from __future__ import annotations

import json

import pytest
import torch
from sklearn.metrics import f1_score

import bigbatch
from bigbatch.report.html import render_report
from bigbatch.report.read import read_run
from bigbatch.run.baseline import fit as fitting
from bigbatch.run.baseline import kept as baselines
from bigbatch.tasks.classify import Classify
from tests.jobs import HELD_OUT, ROWS, document, events, exhaust, lines, start, weights
from tests.language import MASK, documents, model_of
from tests.models import tiny
from tests.split import rows_of

EVERY = {"run.evaluate_every": "1 updates"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows_of("single", 30, longest=20, seed=9))))
    return exhaust(
        start(folder / "r", validation=HELD_OUT, set={**EVERY, "data.test": str(folder / "t.jsonl")})
    )


def test_every_split_and_metric_of_the_model_has_a_figure(finished):
    found, final = finished.result["baseline"], finished.result["final"]
    assert set(found) == {"majority", "bag_of_words"}
    for splits in found.values():
        assert {name: set(figures) for name, figures in splits.items()} == {
            name: set(figures) for name, figures in final.items()
        }


def test_the_majority_is_what_scikit_learn_says_of_it(finished):
    labels, said = [row["labels"] for row in HELD_OUT], [row["labels"] for row in ROWS]
    most = max(sorted(set(said)), key=said.count)
    wanted = f1_score(labels, [most] * len(labels), average="macro", labels=sorted(set(labels) | {most}))
    figures = finished.result["baseline"]["majority"]["validation"]
    assert figures["f1_macro"] == pytest.approx(wanted)
    assert figures["accuracy"] == labels.count(most) / len(labels)


def test_it_is_told_once_with_the_first_evaluation(finished):
    told = events(finished.path, "baseline")
    assert len(told) == 1 and told[0]["step"] == 1 and "f1_macro on validation" in told[0]["why"]
    kinds = [(line["kind"], line.get("event")) for line in lines(finished.path) if line["step"] == 1]
    assert kinds.index(("event", "baseline")) == kinds.index(("eval", None)) + 1


def test_report_and_card_begin_with_the_verdict(finished):
    verdict = finished.result["verdict"]
    assert " of macro F1 " in verdict or ": macro F1 " in verdict
    page = render_report(read_run(finished.path))
    assert page.index(verdict[1:60]) < page.index("Adamw" if "Adamw" in page else "trained to")
    assert "bag of words: test" in page
    card = (finished.path / "model/README.md").read_text()
    assert f"Result: `{verdict}`" in card and "`bag_of_words: test`" in card


def test_training_has_the_same_bits_without_it(tmp_path):
    torch.manual_seed(3)
    held = exhaust(start(tmp_path / "auto", tiny("bert", dropout=0.1), validation=HELD_OUT, set=EVERY))
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    alone = exhaust(
        start(
            tmp_path / "off", tiny("bert", dropout=0.1), validation=HELD_OUT, set={**EVERY, "baseline": "off"}
        )
    )
    assert torch.equal(state, torch.random.get_rng_state())
    left, right = weights(held), weights(alone)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert alone.result["baseline"] == {} and not (tmp_path / "off" / "baseline.json").exists()
    assert alone.result["verdict"].startswith("macro F1 ")
    keys = [document(tmp_path / name, "identity.json")["what"] for name in ("auto", "off")]
    assert keys[0] == keys[1]


def test_a_resume_fits_nothing_again(tmp_path, monkeypatch):
    with start(
        tmp_path / "r", validation=HELD_OUT, set={**EVERY, "run.checkpoint_every": "1 updates"}
    ) as run:
        for record in run:
            if record.kind == "update" and record.step == 3:
                break
    kept = (tmp_path / "r" / "baseline.json").read_bytes()
    monkeypatch.setattr(baselines, "fitted", lambda *_, **__: pytest.fail("fitted again"))
    again = exhaust(
        start(tmp_path / "r", validation=HELD_OUT, set={**EVERY, "run.checkpoint_every": "1 updates"})
    )
    assert again.status == "finished" and (tmp_path / "r" / "baseline.json").read_bytes() == kept
    assert len(events(tmp_path / "r", "baseline")) == 1
    assert again.result["baseline"] == json.loads(kept)["figures"]


def test_without_validation_the_test_split_is_held_against_it(tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, HELD_OUT)))
    run = exhaust(start(tmp_path / "r", set={"data.test": str(tmp_path / "t.jsonl")}))
    assert set(run.result["baseline"]["bag_of_words"]) == {"test"} and " on test" in run.result["verdict"]


def test_without_any_evaluation_there_is_none(tmp_path):
    run = exhaust(start(tmp_path / "r"))
    assert run.result["baseline"] == {} and run.result["verdict"].startswith("not evaluated")


class Mine(Classify):
    """A task of the user's own: nobody knows what it reads."""


def test_a_task_of_the_users_own_has_none(tmp_path):
    run = exhaust(start(tmp_path / "r", validation=HELD_OUT, task=Mine()))
    assert run.result["baseline"] == {} and not events(tmp_path / "r", "baseline")


def test_whatever_goes_wrong_the_run_goes_on(tmp_path, monkeypatch):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(fitting, "classify_baselines", broken)
    run = exhaust(start(tmp_path / "r", validation=HELD_OUT))
    assert run.status == "finished" and run.result["baseline"] == {}
    assert "could not be computed (MemoryError: no room)" in events(tmp_path / "r", "baseline")[0]["did"]


def test_a_damaged_file_is_written_anew(tmp_path):
    keys = {**EVERY, "run.checkpoint_every": "1 updates"}
    with start(tmp_path / "r", validation=HELD_OUT, set=keys) as run:
        for record in run:
            if record.kind == "update" and record.step == 3:
                break
    (tmp_path / "r" / "baseline.json").write_text('{"of": 3}')
    again = exhaust(start(tmp_path / "r", validation=HELD_OUT, set=keys))
    assert again.status == "finished" and set(again.result["baseline"]) == {"majority", "bag_of_words"}


def test_several_labels_and_numbers(tmp_path):
    rows = rows_of("multi", 60, longest=20)
    run = exhaust(
        start(tmp_path / "m", rows=rows, validation=rows[:20], task={"name": "classify", "kind": "multi"})
    )
    assert {*run.result["baseline"]["bag_of_words"]["validation"]} >= {"f1_macro", "f1_micro", "loss"}
    rows = rows_of("regression", 60, longest=20)
    task = {"name": "classify", "kind": "regression"}
    run = exhaust(start(tmp_path / "r", rows=rows, validation=rows[:20], task=task))
    mean, bag = (run.result["baseline"][name]["validation"] for name in ("mean", "bag_of_words"))
    assert mean["r2"] <= 0.05 < bag["r2"] and bag["mse"] < mean["mse"]


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ({"name": "clm"}, {"5_gram"}),
        ({"name": "clm", "blocks": "fixed"}, {"5_gram"}),
        ({"name": "mlm", "mask_id": MASK}, {"most_frequent_token", "neighbours"}),
    ],
)
def test_language_models(tmp_path, task, names):
    keys = {"task": task, "data.max_length": 24}
    rows, held_out = documents(60, seed=5), documents(20, seed=6)
    run = exhaust(start(tmp_path / "r", model_of(task["name"]), rows=rows, validation=held_out, set=keys))
    assert set(run.result["baseline"]) == names
    for splits in run.result["baseline"].values():
        figures = splits["validation"]
        assert set(figures) == set(run.result["final"]["validation"])
        # Scored on the same tokens: a model that knows nothing has the logarithm of the vocabulary.
        assert 0 < figures["loss"] < 6
    assert "perplexity" in run.result["verdict"]


def test_a_figure_of_the_users_own_is_not_asked_of_it(tmp_path):
    asked = []

    def mine(predictions, targets):
        asked.append(len(targets.values))
        return 0.5

    run = exhaust(
        start(tmp_path / "r", validation=HELD_OUT, metrics=["accuracy", mine], set={"best": "mine"})
    )
    figures = run.result["baseline"]["majority"]["validation"]
    assert "mine" in run.result["final"]["validation"] and set(figures) == {"loss", "accuracy"}
    assert "accuracy" in run.result["verdict"]


def test_python_sees_the_verdict(finished):
    again = bigbatch.read(finished.path)
    assert again.result["verdict"] == finished.result["verdict"]

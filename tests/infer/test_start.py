"""A model by preferences is asked beside the one that it started from, wherever that is."""

from __future__ import annotations

import shutil

import pytest

import bigbatch
from bigbatch.errors import UsageError
from tests.jobs import document
from tests.models import WORDS, tiny_tokenizer
from tests.preferences import answer_rows, decoder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run from a folder, on rows of text."""
    home = tmp_path_factory.mktemp("home")
    decoder().save_pretrained(home / "start")
    tiny_tokenizer(home / "start", WORDS).save_pretrained(home / "start")
    rows, held_out = answer_rows(40), answer_rows(12, seed=1)
    keys = {
        "task": {"name": "prefer", "beta": 0.5}, "updates": 6, "batch": 12, "plan.micro_tokens": 96,
        "plan.packing": "packed", "optimizer.lr": 1e-2,
    }  # fmt: skip
    run = bigbatch.train(str(home / "start"), rows, held_out, set=keys, run_dir=home / "runs/answers")
    return home, run, rows, held_out


def test_evaluate_gives_the_figures_of_the_run(trained):
    home, run, _, held_out = trained
    found = bigbatch.evaluate(home / "runs/answers", held_out)
    assert found["loss"] == pytest.approx(run.metrics["validation.loss"], rel=1e-5)
    assert found["margin"] == pytest.approx(run.metrics["validation.margin"], rel=1e-4, abs=1e-5)
    assert found["accuracy"] == run.metrics["validation.accuracy"]


def test_predict_gives_both_rewards_and_the_better_answer(trained):
    home, run, rows, held_out = trained
    found = bigbatch.predict(home / "runs/answers", held_out)
    assert [set(one) for one in found] == [{"preferred", "chosen", "rejected"}] * 12
    margins = [one["chosen"] - one["rejected"] for one in found]
    assert sum(margins) / 12 == pytest.approx(run.metrics["validation.margin"], rel=1e-4, abs=1e-5)
    assert all(
        (one["preferred"] == "chosen") == (margin > 0) for one, margin in zip(found, margins, strict=True)
    )
    learnt = bigbatch.predict(home / "runs/answers", rows)
    assert sum(one["preferred"] == "chosen" for one in learnt) > 30, (
        "six updates at this rate fit the training rows"
    )
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in held_out]
    other = bigbatch.predict(home / "runs/answers", swapped)
    assert [one["chosen"] for one in other] == pytest.approx([one["rejected"] for one in found], abs=1e-4)


def test_a_row_of_which_an_answer_is_empty_is_told_nothing(trained):
    home = trained[0]
    [found] = bigbatch.predict(
        home / "runs/answers", [{"prompt": "the crew", "chosen": "was late", "rejected": " "}]
    )
    assert found == {"preferred": None, "chosen": None, "rejected": None}


def test_the_plan_foretold_the_reference(trained):
    home = trained[0]
    plan = document(home / "runs/answers", "plan.json")
    assert plan["derive_seconds"]["prediction"] > 0
    assert "before update 1" in plan["derive_seconds"]["reason"]


def test_a_start_that_is_not_what_it_was_is_refused(trained, tmp_path):
    home, _, _, held_out = trained
    shutil.copytree(home / "runs/answers", tmp_path / "alone")
    shutil.move(home / "start", home / "gone")
    try:
        with pytest.raises(UsageError, match="no such folder here: bring it back"):
            bigbatch.predict(tmp_path / "alone", held_out)
        decoder(seed=5).save_pretrained(home / "start")
        tiny_tokenizer(home / "start", WORDS).save_pretrained(home / "start")
        with pytest.raises(UsageError, match="is another model now"):
            bigbatch.evaluate(tmp_path / "alone", held_out)
    finally:
        shutil.rmtree(home / "start")
        shutil.move(home / "gone", home / "start")


def test_a_bare_model_folder_is_an_ordinary_causal_model(trained):
    """What is exported generates text; its task is `clm`, as that of every such folder."""
    from transformers import AutoModelForCausalLM

    home = trained[0]
    assert AutoModelForCausalLM.from_pretrained(home / "runs/answers/model").config.model_type == "gpt2"
    [found] = bigbatch.predict(home / "runs/answers/model", ["the crew was late"])
    assert found["tokens"] > 0

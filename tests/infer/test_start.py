"""A model by preferences is asked beside the one that it started from, wherever that is."""

from __future__ import annotations

import json
import shutil

import pytest

import bigbatch
from bigbatch.answers import predict_file
from bigbatch.errors import DataError, UsageError
from bigbatch.tasks.answers import encode_answers
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


def test_rows_of_token_ids_are_told_as_their_texts_are(trained):
    home, _, _, held_out = trained
    tokenizer = tiny_tokenizer(home / "start", WORDS)
    as_ids = []
    for sample in encode_answers(held_out, tokenizer, None):
        side_U = sample.values[:, 1]
        first = int(sample.reads[0]) + 1
        answers = [sample.values[side_U == side, 0].tolist() for side in (0, 1)]
        as_ids.append({"prompt": sample.ids[:first].tolist(), "chosen": answers[0], "rejected": answers[1]})
    texts, ids = (bigbatch.predict(home / "runs/answers", rows) for rows in (held_out, as_ids))
    for text, own in zip(texts, ids, strict=True):
        assert own == {
            **text,
            "chosen": pytest.approx(text["chosen"]),
            "rejected": pytest.approx(text["rejected"]),
        }
    (home / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in as_ids))
    predict_file(home / "runs/answers", str(home / "ids.jsonl"), str(home / "told.jsonl"))
    told = [json.loads(line) for line in (home / "told.jsonl").read_text().splitlines()]
    assert [row["chosen"] for row in told] == pytest.approx([row["chosen"] for row in ids])
    with pytest.raises(DataError, match=r"row 2.*token id 99999.*rows"):
        bigbatch.predict(home / "runs/answers", [as_ids[0], {**as_ids[1], "chosen": [99999]}])


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

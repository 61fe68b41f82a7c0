"""A reward model that was trained alive is asked as one of a folder is: the run, its folder, transformers' own door."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bigbatch
from bigbatch.errors import DataError
from tests.models import WORDS, tiny_folder

ROWS = [
    {"prompt": f"{WORDS[n % 9]} {WORDS[(n + 2) % 7]}", "chosen": f"{WORDS[n % 5]} great", "rejected": f"{WORDS[n % 4]} bad late"}
    for n in range(40)
]  # fmt: skip
KEYS = {"updates": 3, "batch": 8, "plan.packing": "padded", "plan.micro_tokens": 128, "baseline": "off"}


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def parts(request, tmp_path_factory):
    """A live model with one output, its tokenizer, and where they lie."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_folder(folder / "start", request.param)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder / "start", num_labels=1, ignore_mismatched_sizes=True
    )
    return model, AutoTokenizer.from_pretrained(folder / "start"), folder


def rewards_of(folder, rows) -> np.ndarray:
    """(rows, 2), one answer at a time, by transformers alone."""
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )

    def one(row, side) -> float:
        if model.config.model_type == "bert":
            ids = tokenizer(row["prompt"], row[side])
        else:
            # One text behind the other; this tokenizer has no end mark.
            texts = [tokenizer(row[name], add_special_tokens=False).input_ids for name in ("prompt", side)]
            ids = {"input_ids": [tokenizer.cls_token_id, *texts[0], *texts[1]]}
        with torch.no_grad():
            return float(model(**{name: torch.tensor([each]) for name, each in ids.items()}).logits[0, 0])

    return np.array([[one(row, side) for side in ("chosen", "rejected")] for row in rows])


def test_a_live_models_run_and_its_folder_answer_alike(parts):
    model, tokenizer, folder = parts
    run = bigbatch.train(model, ROWS, ROWS[:10], tokenizer=tokenizer, set=KEYS, run_dir=folder / "run")
    figures = [bigbatch.evaluate(place, ROWS[:10]) for place in (folder / "run", folder / "run" / "model")]
    for found in figures:
        assert found["loss"] == pytest.approx(run.metrics["validation.loss"], rel=1e-5)
        assert found["accuracy"] == run.metrics["validation.accuracy"]
    wanted = rewards_of(folder / "run" / "model", ROWS[:4])
    for answers in (
        list(run.predict(ROWS[:4])),
        list(bigbatch.predict(folder / "run", ROWS[:4])),
        list(bigbatch.predict(folder / "run" / "model", ROWS[:4])),
    ):
        found = np.array([[row["chosen"], row["rejected"]] for row in answers])
        assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    [alone] = bigbatch.predict(
        folder / "run" / "model", [{"prompt": ROWS[0]["prompt"], "answer": ROWS[0]["rejected"]}]
    )
    assert alone["reward"] == pytest.approx(wanted[0, 1], abs=1e-5)


def test_transformers_door_knows_pairs_by_their_columns(parts):
    from transformers import TrainingArguments

    model, tokenizer, folder = parts
    args = TrainingArguments(
        output_dir=str(folder / "door"),
        max_steps=2,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to=[],
    )
    trainer = bigbatch.Trainer(
        model=model, args=args, train_dataset=ROWS, eval_dataset=ROWS[:10], processing_class=tokenizer
    )
    before = trainer.evaluate()
    trainer.train()
    figures = trainer.evaluate()
    assert {"eval_loss", "eval_accuracy", "eval_margin"} <= {*figures} and figures["eval_loss"] != before[
        "eval_loss"
    ]
    found = trainer.predict(ROWS[:5])
    trainer.save_model(str(folder / "saved"))
    wanted = rewards_of(folder / "saved", ROWS[:5])
    assert found.predictions.shape == (5, 2) and np.allclose(found.predictions, wanted, rtol=1e-4, atol=1e-5)
    assert found.label_ids.tolist() == [0] * 5, "the chosen one stands first, as TRL has it"
    assert found.metrics["test_accuracy"] == pytest.approx((wanted[:, 0] > wanted[:, 1]).mean())


def test_one_output_of_another_name_is_a_number(parts):
    _, _, folder = parts
    config = json.loads((folder / "start" / "config.json").read_text())
    assert config.get("id2label") != {"0": "reward"}
    other = AutoModelForSequenceClassification.from_pretrained(
        folder / "start", num_labels=1, ignore_mismatched_sizes=True
    )
    other.save_pretrained(folder / "number")
    AutoTokenizer.from_pretrained(folder / "start").save_pretrained(folder / "number")
    with pytest.raises(DataError, match="no column for the text"):
        bigbatch.evaluate(folder / "number", ROWS[:3])

"""Reward models: what transformers gives of the folder is what `predict` gives; answers alone; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bigbatch
from bigbatch.errors import BigbatchError, RecipeError
from bigbatch.samples import Targets
from bigbatch.tasks.reward import Reward
from tests.chats import chat_tokenizer, talk
from tests.models import tiny, tiny_folder
from tests.preferences import answer_rows

HELD_OUT = answer_rows(14, seed=1)


def trained(home: Path, family: str, **config: Any) -> Any:
    """A run from a folder with a head of other labels."""
    tiny_folder(home / "start", family, **config)
    keys = {
        "task": {"name": "reward", "centring": 0.01}, "updates": 10, "batch": 24, "optimizer.lr": 1e-2,
        "plan.micro_tokens": 96,
    }  # fmt: skip
    return bigbatch.train(str(home / "start"), answer_rows(60), HELD_OUT, set=keys, run_dir=home / "run")


def by_transformers(folder: Path, rows: list[dict[str, str]], side: str, pair: bool) -> np.ndarray:
    """All rows in one padded rectangle, through the folder's own class."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    if pair:
        encoded = tokenizer(
            [row["prompt"] for row in rows], [row[side] for row in rows], padding=True, return_tensors="pt"
        )
    else:
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids = []
        for row in rows:
            prompt = tokenizer(row["prompt"])["input_ids"]
            while prompt[-1] in (tokenizer.sep_token_id, tokenizer.eos_token_id):
                prompt.pop()
            ids.append(prompt + tokenizer(row[side], add_special_tokens=False)["input_ids"] + end)
        encoded = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    with torch.no_grad():
        assert model.config.num_labels == 1
        return model(**encoded).logits[:, 0].double().numpy()


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_folder_gives_the_same_rewards_in_transformers(tmp_path, family):
    run = trained(tmp_path, family)
    found = bigbatch.predict(tmp_path / "run", HELD_OUT)
    for side in ("chosen", "rejected"):
        expected = by_transformers(tmp_path / "run/model", HELD_OUT, side, pair=family == "bert")
        assert np.array([row[side] for row in found]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    margins = [row["chosen"] - row["rejected"] for row in found]
    assert np.mean(margins) == pytest.approx(run.metrics["validation.margin"], rel=1e-4)
    assert run.metrics["validation.accuracy"] == np.mean([row["preferred"] == "chosen" for row in found])
    assert run.metrics["validation.accuracy"] > 0.6
    # An answer alone, of whichever name, among pairs; an empty one is told nothing.
    [alone, chosen, pair, nothing] = bigbatch.predict(
        tmp_path / "run",
        [
            {"prompt": HELD_OUT[0]["prompt"], "answer": HELD_OUT[0]["rejected"]},
            {"prompt": HELD_OUT[1]["prompt"], "chosen": HELD_OUT[1]["chosen"]},
            HELD_OUT[2],
            {"prompt": "the crew", "answer": " "},
        ],
    )
    assert alone == {"reward": pytest.approx(found[0]["rejected"], abs=1e-5)}
    assert chosen == {"reward": pytest.approx(found[1]["chosen"], abs=1e-5)}
    assert pair["chosen"] == pytest.approx(found[2]["chosen"], abs=1e-5)
    assert nothing == {"reward": None} or family == "bert"
    again = bigbatch.evaluate(tmp_path / "run", HELD_OUT)
    assert again["loss"] == pytest.approx(run.metrics["validation.loss"], rel=1e-5)


def test_an_end_mark_that_is_the_padding_too_is_read_where_it_ends_an_answer(tmp_path):
    tokenizer = chat_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(tmp_path / "start")
    end = tokenizer.eos_token_id
    config = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "initializer_range": 0.2}
    model = tiny("llama", num_labels=1, pad_token_id=end, eos_token_id=end, **config)
    model.save_pretrained(tmp_path / "start")
    rows = [
        {"chosen": one["messages"], "rejected": [*one["messages"][:-1], other["messages"][-1]]}
        for one, other in zip(talk(16, seed=1), talk(16, seed=2), strict=True)
    ]
    keys = {"task": "reward", "updates": 2, "batch": 8, "optimizer.lr": 1e-3}
    bigbatch.train(str(tmp_path / "start"), rows, None, set=keys, run_dir=tmp_path / "run")
    found = bigbatch.predict(tmp_path / "run", rows)
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model").eval()
    for side in ("chosen", "rejected"):
        # By hand: the hidden state of the last token, by the length of the answer.
        for row, told in zip(rows, found, strict=True):
            messages = [{key: each[key] for key in ("role", "content")} for each in row[side]]
            ids = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
            ids = torch.tensor([tokenizer(ids, add_special_tokens=False)["input_ids"]])
            assert ids[0, -1] == end
            with torch.no_grad():
                reward = own.score(own.model(ids).last_hidden_state[0, -1])
            assert told[side] == pytest.approx(reward.item(), rel=1e-4, abs=1e-5)


def test_a_row_without_an_answer_is_refused(tmp_path):
    trained(tmp_path, "llama")
    with pytest.raises(BigbatchError, match="found no answer; expected `answer`"):
        bigbatch.predict(tmp_path / "run", [{"prompt": "the crew"}])
    with pytest.raises(BigbatchError, match="margin"):
        rows = [{**row, "margin": "much"} for row in answer_rows(24)]
        keys = {"task": "reward", "updates": 1, "batch": 24}
        bigbatch.train(str(tmp_path / "start"), rows, None, set=keys, run_dir=tmp_path / "other")


@pytest.mark.parametrize("centring", [-0.1, float("inf"), float("nan")])
def test_a_centring_that_means_nothing_is_refused(centring):
    with pytest.raises(RecipeError, match=r"task\.centring"):
        Reward(centring=centring)


def test_both_terms_by_hand():
    values = np.array([[5, 0, 0], [5, 1, 0], [5, 0, 1], [5, 1, 1]])
    weights, margin = np.array([1, 1, 0, 0], np.float32), np.array([0.5, 0.5, 0, 0], np.float32)
    targets = Targets(values=values, weights=weights, extras={"margin": margin})
    task = Reward(centring=0.25)
    assert task.denominators(targets) == {"reward": 1.0, "centring": 1.0}
    found = task.kept_loss(np.array([[2.0], [1.0], [9.0], [9.0]]), targets)
    assert found["reward"].tolist() == pytest.approx([np.log1p(np.exp(-0.5)), 0.0])
    assert found["centring"].tolist() == pytest.approx([0.25 * 9.0, 0.0])
    assert Reward().denominators(targets) == {"reward": 1.0}

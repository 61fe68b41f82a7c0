"""What questions, conversations and reward models are held against."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import as_table
from bigbatch.run.baseline.fit import fitted, has_baselines
from bigbatch.run.baseline.model import Split
from bigbatch.run.baseline.ngram import clm_baselines
from bigbatch.run.baseline.span import NEAR, NONE, Asked, Nearest
from bigbatch.tasks.chat import Chat
from bigbatch.tasks.reward import Reward
from bigbatch.tasks.span import Span
from tests.chats import by_hand, chat_tokenizer, talk
from tests.models import tiny_tokenizer
from tests.preferences import preferences
from tests.questions import question_rows


def split_of(task, rows, tokenizer, *, train: bool = False) -> Split:
    table = as_table(task.encode_batch(rows, tokenizer))
    return Split(rows=DataTable(rows=pa.Table.from_pylist(rows)), table=table if train else task.fixed(table))


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize("without", [0, 4])
def test_answers_near_the_words_of_the_question(without, tmp_path):
    """The answer stands behind a word that the question names: that is all there is to know here."""
    tokenizer = tiny_tokenizer(tmp_path)
    task = Span().with_facts(max_length=32)
    train, held_out = (
        [
            {**row, "answers": json.dumps(row["answers"])}
            for row in question_rows(count, seed=seed, without=without)
        ]
        for count, seed in ((120, 0), (40, 7000))
    )
    split = split_of(task, held_out, tokenizer)
    found = fitted(
        task, split_of(task, train, tokenizer, train=True), {"validation": split}, seconds=30,
        vocabulary=100, scored={"validation": "f1"},
    )  # fmt: skip
    assert {*found.figures} == ({NONE, NEAR} if without else {NEAR})
    figures = found.figures[NEAR]["validation"]
    assert {*figures} == {"exact_match", "f1"} and (figures["f1"] or 0) > 0.75, figures
    assert found.scores[NEAR]["validation"].mean() == pytest.approx(figures["f1"])
    if without:
        assert found.figures[NONE]["validation"] == {"exact_match": 0.25, "f1": 0.25}


def test_answers_look_like_those_of_such_questions():
    """Of two stretches as near the one is taken that such a question is answered by; none crosses a sentence."""
    rows = [
        Asked(question=f"How many {thing} did Ann buy?", context=f"Ann bought {count} {thing} in Oslo.", answers=[str(count)])
        for count, thing in enumerate(["boats", "hats", "fish", "nets", "oars", "pans", "keys", "maps"] * 4, 2)
    ]  # fmt: skip
    model = Nearest(rows, "en")
    asked = Asked(
        question="How many cats did Bo sell?", context="It rains. Bo sold red 17 big cats.", answers=["17"]
    )
    assert model.answer(asked) == "17" and model.taste.strength > 0
    assert model.answer(Asked(question="How many?", context="", answers=[])) == ""


# ---------------------------------------------------------------- conversations


def test_the_surprise_of_the_same_tokens():
    tokenizer, rows = chat_tokenizer(), talk(60, weights=(0, 0.5))
    task = Chat()
    told = [{"messages": json.dumps(row)} for row in rows]
    train, held_out = split_of(task, told[:50], tokenizer, train=True), split_of(task, told[50:], tokenizer)
    assert has_baselines(task)
    found = fitted(task, train, {"validation": held_out}, seconds=30, vocabulary=len(tokenizer)).figures[
        "5_gram"
    ]
    [model] = clm_baselines(train, vocabulary=len(tokenizer))
    nll_U = np.asarray(model.outputs(held_out))[:, 0]
    weights_U = [own for row in rows[50:] for own in by_hand("chatml", row["messages"], tokenizer)[1]]
    weights_U = np.array([own for own in weights_U if own])
    counted = np.asarray(held_out.table.weights) > 0
    assert counted.sum() == len(weights_U), "the assistant's tokens, and no others"
    wanted = float(np.sum(nll_U[counted] * weights_U) / weights_U.sum())
    assert found["validation"]["loss"] == pytest.approx(wanted, rel=1e-9)
    assert 0 < wanted < math.log(len(tokenizer)) - 2


# ---------------------------------------------------------------- rewards


def test_a_bag_of_words_is_a_reward_and_length_is_none():
    """Chosen answers have a token that rejected ones have not; lengths say nothing."""
    random = np.random.default_rng(0)

    def pairs(count: int) -> list[dict[str, list[int]]]:
        return [
            {
                "prompt": [5, 6],
                "chosen": [7, *random.integers(20, 40, int(random.integers(2, 9))).tolist()],
                "rejected": [8, *random.integers(20, 40, int(random.integers(2, 9))).tolist()],
            }
            for _ in range(count)
        ]

    task = Reward(centring=0.01).with_facts(max_length=64, pools="last")
    train, rows = pairs(80), pairs(30)
    split = split_of(task, rows, None)
    found = fitted(
        task, split_of(task, train, None, train=True), {"validation": split}, seconds=30, vocabulary=100,
        scored={"validation": "accuracy"},
    )  # fmt: skip
    bag, longer = (found.figures[name]["validation"] for name in ("bag_of_words", "longer_answer"))
    assert bag["accuracy"] == 1 and 0 < (bag["loss"] or 0) < 0.5 and (bag["margin"] or 0) > 1
    lengths = [np.sign(len(row["chosen"]) - len(row["rejected"])) for row in rows]
    assert longer == {"accuracy": pytest.approx(float(np.mean((np.array(lengths) + 1) / 2)))}
    assert found.scores["longer_answer"]["validation"].tolist() == [(sign + 1) / 2 for sign in lengths]


def test_pairs_that_are_all_equal_have_no_bag():
    rows = [{**row, "rejected": row["chosen"]} for row in preferences(6)]
    task = Reward().with_facts(max_length=64, pools="last")
    split = split_of(task, rows, None)
    found = fitted(task, split, {"validation": split}, seconds=30, vocabulary=100)
    assert "bag_of_words" not in found.figures

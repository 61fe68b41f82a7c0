"""The sentence that a run ends with: what it may say, and what chance forbids it to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bigbatch.rules.verdict import Course, Curves, Held, still_improving, verdict

FLAT = Curves(steps=[10, 20, 30, 40], values=[0.9] * 4, losses=[0.3] * 4, training=[0.5] * 10 + [0.2] * 30)
RISING = Curves(
    steps=[10, 20, 30, 40], values=[0.3, 0.5, 0.6, 0.7], losses=[1.5, 1.3, 1.2, 1.1], training=[2.0] * 40
)


def held(
    ours: float = 0.945, metric: str = "f1_macro", larger: bool = True, rows: int = 3000, **theirs: Any
) -> Held:
    baselines = theirs.pop("baselines", {"majority": 0.01, "bag_of_words": 0.914})
    return Held(
        metric=metric,
        ours=ours,
        larger_is_better=larger,
        split="test",
        rows=rows,
        baselines=baselines,
        **theirs,
    )


def course(**changed: Any) -> Course:
    usual = {
        "length": "epochs", "amount": 3.0, "seconds": 120.0, "batch_samples": 64, "updates": 400, "lr": 5e-5,
        "stopped": False,
    }  # fmt: skip
    return Course(**{**usual, **changed})


def test_a_run_that_won():
    said = verdict(held(), FLAT, course())
    assert said == "better than a bag of words by 3.1 points of macro F1 (0.945 against 0.914 on test)"
    said = verdict(held(), RISING, course(), never=list("abcde"))
    assert said.endswith("; still improving when it ended; 5 classes are never predicted")
    assert verdict(held(), FLAT, course(), never=["LOC"], kind="type").endswith(
        "; type LOC is never predicted"
    )


def test_a_run_that_lost_says_what_its_curves_suggest():
    said = verdict(held(0.648), RISING, course())
    assert said == (
        "worse than a bag of words by 26.6 points of macro F1 (0.648 against 0.914 on test); "
        "still improving when it ended: epochs=6 would take about 2 min 00 s more"
    )
    few = verdict(held(0.648), RISING, course(batch_samples=256, updates=106))
    assert few.endswith("2 min 00 s more, or batch=64 makes 424 updates of the same samples")
    steep = Curves(steps=[10, 20, 30], values=[0.1, 0.2, 0.4], losses=[4.0, 3.0, 2.0], training=[])
    assert "epochs=9 would take about 4 min 00 s more" in verdict(held(0.4), steep, course())
    # What was stopped on purpose is not told to go on.
    assert "would take" not in verdict(held(0.648), RISING, course(stopped=True))


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        (
            Curves(steps=[1, 2, 3], values=[0.6, 0.6, 0.5], losses=[1.0, 0.8, 1.3], training=[]),
            "lowest after update 2",
        ),
        (
            Curves(steps=[1, 2], values=[0.1, 0.1], losses=[1.1, 1.1], training=[1.1] * 50),
            "try optimizer.lr=0.0005",
        ),
        (FLAT, "have levelled off"),
    ],
)
def test_other_curves_suggest_other_things(curves, words):
    assert words in verdict(held(0.5), curves, course())


def test_few_updates_are_told():
    assert verdict(held(0.5), FLAT, course(batch_samples=256, updates=99)).endswith(
        "only 99 updates: batch=64 makes 396 updates of the same samples"
    )
    assert verdict(held(0.5), FLAT, course(batch_samples=16, updates=4)).endswith(
        "only 4 updates: a longer run"
    )


def test_better_is_not_said_of_what_chance_explains():
    said = verdict(held(0.92, rows=200), FLAT, course())
    assert said.startswith(
        "no better than a bag of words: macro F1 0.920 against 0.914 on test, 200 rows, is within chance"
    )
    # The same difference of the same rows, paired: every row that changed got better.
    then, now = np.zeros(200), np.zeros(200)
    then[:183], now[:184] = 1, 1
    ours, theirs = now.tolist(), {"bag_of_words": then.tolist()}
    assert held(0.92, rows=200, our_scores=ours, their_scores=theirs).beats("bag_of_words") is None
    now[184:190] = 1
    assert held(0.95, rows=200, our_scores=now.tolist(), their_scores=theirs).beats("bag_of_words") is True
    assert (
        held(0.88, rows=200, our_scores=then.tolist(), their_scores={"bag_of_words": now.tolist()}).beats(
            "bag_of_words"
        )
        is False
    )


def test_f1_is_of_what_the_task_finds():
    """Of entities where tags mark some; of words where answers are found."""
    theirs = {"no_answer": 0.33, "near_question_words": 0.41}
    said = verdict(held(0.7, "f1", baselines=theirs), FLAT, course())
    assert said.startswith(
        "better than the stretch nearest to the question's words by 29.0 points of F1 (0.7"
    )
    said = verdict(held(0.3, "f1", baselines=theirs), FLAT, course())
    assert said.startswith("worse than never giving an answer by 3.0 points of F1 (")
    said = verdict(held(0.7, "f1", baselines={}, entities=True), FLAT, course())
    assert said == "F1 of entities 0.700 on test"


def test_equal_is_no_better_and_no_worse():
    assert (
        held(0.914, our_scores=[1.0, 0.0], their_scores={"bag_of_words": [1.0, 0.0]}).beats("bag_of_words")
        is None
    )
    assert held(0.0, metric="accuracy", baselines={"majority": 0.0}).beats("majority") is None


def test_what_does_not_beat_a_constant_is_told_so():
    said = verdict(held(0.40, baselines={"majority": 0.41, "bag_of_words": 0.9}), FLAT, course())
    assert said.startswith(
        "no better than always saying the most frequent class: macro F1 0.400 against 0.410"
    )
    said = verdict(held(0.30, baselines={"majority": 0.41, "bag_of_words": 0.9}), FLAT, course())
    assert said.startswith("worse than always saying the most frequent class by 11.0 points")


def test_less_is_better_for_perplexity():
    said = verdict(held(41.0, "perplexity", False, baselines={"5_gram": 62.5}), FLAT, course())
    assert said == "better than a 5-gram: perplexity 41 against 62.5 on test"
    assert verdict(held(70.0, "perplexity", False, baselines={"5_gram": 62.5}), FLAT, course()).startswith(
        "worse than"
    )


def test_without_a_baseline_and_without_data():
    assert verdict(held(0.9, baselines={}), FLAT, course()) == "macro F1 0.900 on test"
    assert verdict(None, FLAT, course()).startswith("not evaluated")


def test_without_evaluations_the_training_loss_tells():
    falling = Curves(steps=[100], values=[0.5], losses=[1.0], training=np.linspace(2, 1, 100).tolist())
    assert still_improving(falling, True, True)
    assert not still_improving(Curves(steps=[], values=[], losses=[], training=[1.0] * 100), True, True)


def test_a_handful_of_rows_tells_nothing():
    said = verdict(held(0.733, rows=4, baselines={"majority": 0.5}), FLAT, course(), never=["b"])
    assert said == (
        "macro F1 0.733 against 0.500 on test: 4 rows are too few to tell it from always saying the most frequent "
        "class; more rows to evaluate on would tell"
    )
    # What is far apart is far apart on few rows, too.
    assert verdict(held(1.0, rows=15, baselines={"majority": 0.1}), FLAT, course()).startswith("better than")

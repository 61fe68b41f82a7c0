"""Losses of pairs of answers: values of TRL 1.16, and a run of each that asks no starting model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bigbatch
from bigbatch.tasks.pair_losses import LOSSES, Range, Scores, Settings, option_problem, orpo
from tests.jobs import document, lines
from tests.models import WORDS, tiny_tokenizer
from tests.preferences import answer_rows, decoder

SCORES = Scores(
    chosen_P=torch.tensor([-0.1, -2.5, -0.7, -4.0], dtype=torch.float64),
    rejected_P=torch.tensor([-3.0, -0.2, -0.7, -4.5], dtype=torch.float64),
    tokens_P=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64),
)
BY_TRL = {
    "odds": (
        Settings(beta=0.1),
        [0.0005495375371538103, 0.39417269825935364, 0.06931471824645996, 0.047132182866334915],
    ),
    "simpo": (
        Settings(beta=2.0, gamma=0.7, smoothing=0.1),
        [0.5160782366017793, 4.774979177204327, 1.033186048885458, 0.5843552444685272],
    ),
    "ipo": (Settings(beta=0.5), [3.61, 10.889999999999999, 1.0, 0.25]),
    "dpo": (
        Settings(beta=0.5, smoothing=0.1),
        [0.3557229646697597, 1.3100805831863984, 0.6931471805599453, 0.6009394198788436],
    ),
}
"""Term -> settings, and what `ORPOTrainer.odds_ratio_loss` (fp32 inside) and `CPOTrainer.cpo_loss` give."""


@pytest.mark.parametrize("term", BY_TRL)
def test_values_are_those_of_trl(term):
    settings, expected = BY_TRL[term]
    found = LOSSES["orpo" if term == "odds" else term].of(SCORES, settings)
    assert found[term].tolist() == pytest.approx(expected, rel=1e-6)


def test_plain_training_of_orpo_counts_answers_or_their_tokens():
    by_pairs, by_tokens = (orpo(SCORES, Settings(nll=how))["nll"] for how in ("pairs", "tokens"))
    assert by_pairs.tolist() == [0.1, 2.5, 0.7, 4.0]
    assert by_tokens.tolist() == pytest.approx([0.1, 5.0, 2.1, 16.0])


def test_the_odds_of_a_certain_answer_are_finite():
    sure = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    scores = Scores(chosen_P=sure, rejected_P=sure - 1, tokens_P=torch.ones(1))
    found = torch.stack(list(orpo(scores, Settings()).values())).sum()
    found.backward()
    assert bool(torch.isfinite(found)) and sure.grad is not None and bool(torch.isfinite(sure.grad).all())


@pytest.mark.parametrize(
    ("allowed", "value", "fine"),
    [
        (Range(0.0, 100.0), 1, True),
        (Range(0.0, 100.0), True, False),
        (Range(0.0, 100.0), float("nan"), False),
        (Range(0.0, 100.0), "1", False),
        ((True, False), True, True),
        ((True, False), 0, False),
        (("pairs", "tokens"), "tokens", True),
        (("pairs", "tokens"), None, False),
    ],
)
def test_options_are_checked(allowed, value, fine):
    assert (option_problem(allowed, value) is None) == fine


@pytest.mark.parametrize(
    ("loss", "terms", "beta"),
    [
        ("orpo", {"loss.nll", "loss.odds"}, 0.1),
        ({"name": "simpo", "args": {"gamma": 0.5}}, {"loss.simpo"}, 2.0),
    ],
)
def test_a_run_without_a_start(tmp_path, loss, terms, beta):
    decoder().save_pretrained(tmp_path / "start")
    tiny_tokenizer(tmp_path / "start", WORDS).save_pretrained(tmp_path / "start")
    rows, held_out = answer_rows(40), answer_rows(12, seed=1)
    keys = {
        "task": "prefer", "loss": loss, "updates": 6, "batch": 12, "plan.micro_tokens": 96,
        "plan.packing": "packed", "optimizer.lr": 1e-2,
    }  # fmt: skip
    run = bigbatch.train(str(tmp_path / "start"), rows, held_out, set=keys, run_dir=tmp_path / "run")
    assert not (tmp_path / "run/derived").exists()
    updates = [each for each in lines(tmp_path / "run") if each["kind"] == "update"]
    assert all(each.keys() >= terms for each in updates)
    assert all(each["loss"] == pytest.approx(sum(each[term] for term in terms)) for each in updates)
    assert set(document(tmp_path / "run", "baseline.json")["figures"]) == {"longer_answer", "bag_of_words"}
    # A folder alone is asked: no start is needed. Rewards are beta times means of log probabilities.
    found = bigbatch.predict(tmp_path / "run", held_out)
    margins = [one["chosen"] - one["rejected"] for one in found]
    assert np.mean(margins) == pytest.approx(run.metrics["validation.margin"], rel=1e-4, abs=1e-5)
    assert all(one["chosen"] < 0 and one["chosen"] > -20 * beta for one in found)
    learnt = bigbatch.predict(tmp_path / "run", rows)
    assert sum(one["preferred"] == "chosen" for one in learnt) > 30

"""A gradient that walks the batch twice is predicted to take twice as long, and a copy of the weights."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bigbatch.errors import DoesNotFit
from bigbatch.plan.planner import make_plan
from bigbatch.plan.timing import Work

SAM = SimpleNamespace(name="sam", rho=0.05, adaptive=False)


@pytest.fixture
def plans(hardware, model, lengths, probe, calibration, recipe_with):
    def get(gradient: SimpleNamespace | None = None, memory_bytes: int = hardware.memory_bytes):
        recipe = recipe_with()
        recipe.gradient = gradient or recipe.gradient
        machine = replace(hardware, memory_bytes=memory_bytes)
        return make_plan(recipe, machine, model, lengths, probe, calibration, work=Work())

    return get


def test_the_plan_says_what_it_costs(plans, model):
    plain, sam = plans(), plans(SAM)
    assert "gradient" not in plain.choices
    line = sam.choices["gradient"]
    assert (line.value, line.source) == ("sam", "user")
    assert "two forward and backward passes" in line.reason
    assert sam.predictions()["train_seconds"] == pytest.approx(2 * plain.predictions()["train_seconds"])
    more = sam.predictions()["peak_memory_bytes"] - plain.predictions()["peak_memory_bytes"]
    assert more == 4 * model.trainable_parameters
    assert "move by 0.05 towards a higher loss" in line.reason


def test_moved_tokens_cost_a_second_pass_and_no_weights(plans):
    plain, fgm = plans(), plans(SimpleNamespace(name="fgm", epsilon=1.0, share=0.5))
    assert "moved by 1 against each sample (0.5 of the whole)" in fgm.choices["gradient"].reason
    once, twice = (each.predictions() for each in (plain, fgm))
    assert 1.8 * once["train_seconds"] < twice["train_seconds"] < 2 * once["train_seconds"]
    assert twice["peak_memory_bytes"] == once["peak_memory_bytes"]


def test_a_copy_that_does_not_fit_makes_the_micro_batch_smaller(plans):
    just = int(plans().predictions()["peak_memory_bytes"]) + 1
    assert plans(SAM, memory_bytes=just).value("micro_tokens") < plans(memory_bytes=just).value(
        "micro_tokens"
    )
    with pytest.raises(DoesNotFit, match="weights_kept|weights kept"):
        plans(SAM, memory_bytes=just - 170_000 * 1024)

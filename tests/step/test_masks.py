from __future__ import annotations

import itertools

import torch

import bigbatch
from bigbatch.step.masks import mask_seed, private_generator
from tests.jobs import HELD_OUT, ROWS, exhaust, start
from tests.models import tiny

GOLDEN = [5207352734819769472, 1054532991272071358, 3095131996076539383]


def test_every_part_of_a_place_changes_the_seed():
    places = list(itertools.product((0, 1), (1, 2, 3), (0, 1, 2), (0, 1)))
    assert len({mask_seed(*place) for place in places}) == len(places)
    assert mask_seed(0, 1, 2) != mask_seed(0, 2, 1) != mask_seed(1, 2, 0)


def test_seeds_are_the_same_on_every_machine():
    # Golden: another value changes the masks of every run that is resumed with a newer version.
    assert [mask_seed(0, 1, 0), mask_seed(3, 1, 0), mask_seed(0, 1, 1, stage=2)] == GOLDEN
    assert all(0 <= seed < 2**63 for seed in GOLDEN)


def test_the_generator_inside_is_nobody_elses():
    before = torch.random.get_rng_state()
    with private_generator(torch.device("cpu")):
        torch.manual_seed(1)
        inside = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), inside)


def test_training_and_evaluating_leave_the_callers_generator_alone(tmp_path):
    module = tiny("bert", dropout=0.3)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    run = exhaust(start(tmp_path / "r", module, validation=HELD_OUT))
    bigbatch.predict(tmp_path / "r", [{"input_ids": ROWS[0]["input_ids"]}])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(12)  # and what the caller draws does not matter either
    again = exhaust(start(tmp_path / "s", tiny("bert", dropout=0.3), validation=HELD_OUT))
    assert run.metrics == again.metrics

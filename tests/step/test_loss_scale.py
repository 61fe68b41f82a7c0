from __future__ import annotations

import json

import torch

from bigbatch.step.loss_scale import LossScale


def test_it_halves_to_the_smallest_and_no_further():
    scale = LossScale(value=4.0)
    seen = []
    while scale.may_help(1.0):
        scale.halve()
        seen.append(scale.value)
    assert seen == [2.0, 1.0]


def test_it_grows_after_a_row_of_good_updates_and_not_beyond_its_largest():
    scale = LossScale(value=8.0, grow_after=3, largest=16.0)
    assert [scale.after(False) for _ in range(3)] == [False, False, True] and scale.value == 16.0
    assert not any(scale.after(False) for _ in range(9)) and scale.value == 16.0


def test_an_overflow_or_a_skipped_update_ends_the_row():
    scale = LossScale(value=8.0, grow_after=3)
    scale.after(False), scale.after(False)
    scale.halve()
    assert not scale.after(False) and scale.good_updates == 1
    assert not scale.after(True) and scale.good_updates == 0


def test_unscaling_changes_no_bit():
    gradients = [torch.randn(50, generator=torch.Generator().manual_seed(0))]
    scale = LossScale(value=2.0**13)
    scaled = [gradient * scale.value for gradient in gradients]
    scale.unscale(scaled)
    assert torch.equal(scaled[0], gradients[0])
    scale.unscale([])


def test_its_state_goes_through_json():
    scale = LossScale(value=2.0**7, good_updates=5)
    other = LossScale()
    other.restore(json.loads(json.dumps(scale.to_state())))
    assert other == scale

"""Drawing: Heun's method against known solutions; images that follow from seed, number and class alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bigbatch.data.labels import LabelSet
from bigbatch.data.pixels import ImageForm
from bigbatch.infer.draw import as_pixels, drawn_images, grid_of, heun
from bigbatch.tasks.diffuse import Diffuse
from tests.drawings import tiny_dit

FORM = ImageForm(height=8, width=8, channels=3, positions=4)
TASK = Diffuse(steps=4).with_facts(image=FORM, labels=LabelSet(("a", "b", "c")))


def test_heun_is_exact_for_a_straight_path_and_of_second_order_otherwise():
    start = torch.tensor([2.0, -1.0], dtype=torch.float64)
    straight = heun(lambda x, t: torch.full_like(x, 3.0), start, 7)
    torch.testing.assert_close(straight, start + 3, rtol=1e-14, atol=0)

    def error(steps: int) -> float:  # dx/dt = x (2 - t)
        return float((heun(lambda x, t: x * (2 - t), start, steps) / start - math.exp(1.5)).abs().max())

    assert 2 < error(10) / error(20) < 5  # the last step is one of first order
    assert error(200) < 0.02


def test_an_image_is_the_same_whoever_is_drawn_beside_it():
    module = tiny_dit().double()
    classes, numbers = np.array([0, 1, 2, 1]), np.arange(4)
    whole = drawn_images(module, TASK, classes, numbers, seed=3)
    alone = [drawn_images(module, TASK, classes[at : at + 1], numbers[at : at + 1], 3)[0] for at in range(4)]
    assert np.array_equal(whole, np.stack(alone))
    assert not np.array_equal(whole[1], whole[3])
    assert not np.array_equal(whole, drawn_images(module, TASK, classes, numbers, seed=4))
    assert whole.shape == (4, 8, 8, 3) and whole.dtype == np.uint8


def test_guidance_goes_from_what_all_classes_share_towards_one():
    module = tiny_dit().double()
    images, times = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    from bigbatch.infer.draw import _velocity

    labels = torch.tensor([0, 2])
    with torch.no_grad():
        of_class = module(images, times, labels).logits.view_as(images)
        of_none = module(images, times, torch.tensor([3, 3])).logits.view_as(images)
        guided = _velocity(module, labels, TASK)(images, 0.5)
        bare = _velocity(module, labels, Diffuse(guidance=1.0).with_facts(labels=TASK.facts.labels))(
            images, 0.5
        )
    torch.testing.assert_close(guided, of_none + 2.0 * (of_class - of_none))
    assert torch.equal(bare, of_class)


def test_pixels_are_the_inverse_of_what_training_makes_of_them():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    form = ImageForm(height=16, width=16, channels=1, positions=4, mean=(0.3,), deviation=(0.2,))
    numbers = form.numbers()[0][pixels[..., 0]][:, None].astype(np.float64)
    assert np.array_equal(as_pixels(numbers, form), pixels)
    assert as_pixels(numbers + 100, form).max() == 255


def test_a_grid_has_a_row_a_class():
    module = tiny_dit()
    grid = grid_of(module, TASK, each=2, seed=0)
    assert grid.shape == (24, 16, 3)
    first = drawn_images(module, TASK, np.array([0, 0, 1, 1, 2, 2]), np.arange(6), 0)
    assert np.array_equal(grid[8:16, 8:], first[3])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"steps": 0}, "task.steps"),
        ({"guidance": -1.0}, "task.guidance"),
        ({"hide_class": 1.0}, "task.hide_class"),
    ],
)
def test_options_out_of_range(options, what):
    from bigbatch.errors import RecipeError

    with pytest.raises(RecipeError, match=what):
        Diffuse(**options)

"""Rows made ready for a model: what is kept of them belongs to what that model takes."""

from __future__ import annotations

from bigbatch.build.build import Given, build
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.recipe.load import load_recipe
from tests.pictures import image_rows, tiny_vision
from tests.split import plan_of


def test_kept_pixels_are_of_the_size_that_this_model_takes(tmp_path):
    """The rows are the same, and so are all options of the task."""
    rows, sizes = image_rows(12), []
    for size in (16, 8, 16):
        recipe = load_recipe(
            {"model": {"name": None}, "data": {"train": []}, "task": "image", "batch": 4, "updates": 2},
            environ={},
        )
        live = Live(module=tiny_vision(image_size=size), train=rows)
        task = live_task(recipe, live)
        given = Given(live=live, plan=plan_of(10**6, "padded"), cache_dir=tmp_path)
        parts = build(recipe, task, read_inputs(recipe, task, live), given)
        sizes.append(parts.train["image"].columns["pixels"].shape[1:3])
    assert sizes == [(16, 16), (8, 8), (16, 16)]
    assert len(list(tmp_path.iterdir())) == 2

"""Rows made ready for a model: what is kept of them belongs to what that model takes."""

from __future__ import annotations

import pytest

from bigbatch.build.build import Given, build
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.errors import DataError
from bigbatch.infer.predict import predict_rows
from bigbatch.recipe.load import load_recipe
from tests.pictures import image_rows, tiny_vision
from tests.split import plan_of


def opened(rows, size=16, **options):
    recipe = load_recipe(
        {"model": {"name": None}, "data": {"train": []}, "task": "image", "batch": 4, "updates": 2},
        environ={},
    )
    live = Live(module=tiny_vision(image_size=size), train=rows)
    task = live_task(recipe, live)
    given = Given(live=live, plan=plan_of(10**6, "padded"), **options)
    return build(recipe, task, read_inputs(recipe, task, live), given)


def test_a_damaged_image_is_named_by_row_and_file_wherever_it_is_read(tmp_path):
    rows, bad = image_rows(12), tmp_path / "bad.png"
    bad.write_bytes(b"text")
    damaged = [*rows, {"image": str(bad), "label": "a"}, {"image": b"more", "label": "a"}]
    with pytest.raises(DataError, match=r"row 13: image: .*bad\.png: no image") as caught:
        opened(damaged)
    assert "row 14: image: no image" in str(caught.value)
    parts = opened(rows)
    with pytest.raises(DataError, match=r"row 2: image: .*bad\.png: no image"):
        list(
            predict_rows(parts.forward, parts.task, None, [{"image": rows[0]["image"]}, {"image": str(bad)}])
        )


def test_kept_pixels_are_of_the_size_that_this_model_takes(tmp_path):
    """The rows are the same, and so are all options of the task."""
    rows, sizes = image_rows(12), []
    for size in (16, 8, 16):
        parts = opened(rows, size, cache_dir=tmp_path)
        sizes.append(parts.train["image"].columns["pixels"].shape[1:3])
    assert sizes == [(16, 16), (8, 8), (16, 16)]
    assert len(list(tmp_path.iterdir())) == 2

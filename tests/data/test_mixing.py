"""Images of two: shares are of a Beta distribution, the other image any of the split, and nobody else has a say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import stats

from bigbatch.data.augment import IMAGE, STREAM
from bigbatch.data.labels import LabelSet
from bigbatch.data.mixing import beta, rectangles
from bigbatch.data.order import sample_states
from bigbatch.data.pixels import ImageForm
from bigbatch.data.rand_augment import CHANGES, rand_augmented
from bigbatch.data.tokens import as_table
from bigbatch.errors import RecipeError
from bigbatch.recipe.load import load_recipe
from bigbatch.samples import Table
from bigbatch.tasks.image import Image
from tests.pictures import NAMES, SIZE, image_rows

ROWS = image_rows(30)
STATES = sample_states(3, STREAM, np.zeros(4000, np.int64), np.arange(4000))


def task(**augment: float) -> Image:
    form = ImageForm(height=SIZE, width=SIZE, channels=3, positions=17)
    return Image(augment=augment).with_facts(image=form, labels=LabelSet(NAMES), data_seed=7)


def seen(told: Image, rows: list[int], epoch: int = 1) -> Table:
    table = as_table(told.encode_batch(ROWS, None), told.sequences, told.prepare)
    return told.view(table, np.array(rows), np.full(len(rows), epoch)).load()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_shares_are_of_a_beta_distribution(alpha):
    found = beta(STATES, alpha)
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert np.array_equal(found[7:9], beta(STATES[7:9], alpha))


def test_a_rectangle_has_the_image_s_shape_and_lies_on_it():
    boxes = rectangles(STATES, np.full(len(STATES), 0.25), (20, 40))
    assert (boxes >= 0).all() and (boxes[:, 2] <= 20).all() and (boxes[:, 3] <= 40).all()
    inside = boxes[(boxes[:, 0] > 0) & (boxes[:, 1] > 0) & (boxes[:, 2] < 20) & (boxes[:, 3] < 40)]
    assert len(inside) > 500
    assert set(map(tuple, inside[:, 2:] - inside[:, :2])) == {(10, 20)}


@pytest.mark.parametrize("augment", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_neither_the_company_nor_the_place_matters(augment):
    told = task(flip=0.5, randaugment=9, **augment)
    together = seen(told, list(range(30)))
    assert together.weights.reshape(30, 2).sum(1) == pytest.approx(1.0)
    assert (together.lengths_B == 17).all(), "the other image takes no positions"
    for rows in ([11], [11, 3, 11]):
        alone = seen(told, rows)
        assert np.array_equal(alone[IMAGE].columns["pixels"], together[IMAGE].columns["pixels"][rows])
        assert np.array_equal(alone.values, together.values.reshape(30, 2)[rows].ravel())
    assert not np.array_equal(
        seen(told, [11], 2)[IMAGE].columns["pixels"], alone[IMAGE].columns["pixels"][:1]
    )


def test_pixels_say_what_the_weights_say():
    """Of CutMix the share of pixels that are one's own is the weight of one's own class."""
    plain = seen(task(flip=1.0), list(range(30)))[IMAGE].columns["pixels"]
    found = seen(task(flip=1.0, cutmix=1.0), list(range(30)))
    own = (found[IMAGE].columns["pixels"] == plain).all(1).mean((1, 2))
    weights = found.weights.reshape(30, 2)[:, 0]
    assert own == pytest.approx(weights, abs=0.02), "but for pixels that are equal by chance"
    assert 0.1 < weights.min() < 0.5 < weights.max()


def test_each_change_of_randaugment():
    """Strength 0 leaves an image as it is, but where a change has no strength; each is drawn; grey images as colours."""
    pixels = np.stack([row["image"] for row in ROWS])
    still = rand_augmented(pixels, STATES[:30], 0, 1)
    same = [np.array_equal(*pair) for pair in zip(still, pixels, strict=True)]
    assert 0.6 < np.mean(same) < 1
    grey = rand_augmented(pixels[..., :1], STATES[:30], 15, 2)
    assert grey.shape == (30, SIZE, SIZE, 1)
    picture = Picture.fromarray(pixels[0])
    for name, change in CHANGES:
        for strength in (-1.0, 0.3, 1.0):
            assert change(picture, strength).size == (SIZE, SIZE), name
    turned = dict(CHANGES)["translate_x"](picture, 0.5)
    assert not np.array_equal(np.asarray(turned), pixels[0])
    assert len(CHANGES) == 14


def test_boxes_are_not_mixed():
    recipe = {"model": "m", "data": {"train": "a.json"}, "batch": 8, "epochs": 1}
    for augment in ({"mixup": 0.2}, {"randaugment": 9}):
        with pytest.raises(RecipeError, match="not an option of this task; another one has it"):
            load_recipe({**recipe, "task": {"name": "detect", "augment": augment}}, environ={})
    with pytest.raises(RecipeError, match="mixup"):
        load_recipe({**recipe, "task": {"name": "image", "augment": {"mixup": 3}}}, environ={})

"""What is random in an image belongs to (seed, epoch, sample), and is what the published rules say."""

from __future__ import annotations

import numpy as np
import pytest

from bigbatch.data.augment import STREAM, erase, moved
from bigbatch.data.labels import LabelSet
from bigbatch.data.order import sample_states
from bigbatch.data.pixels import ImageForm
from bigbatch.data.tokens import as_table
from bigbatch.errors import RecipeError
from bigbatch.files.images import encoded
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.tasks import Augment
from bigbatch.tasks.image import IMAGE, Image
from tests.reference import picture

FORM = ImageForm(height=8, width=8, channels=3, positions=5)
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)


def task(**augment: float) -> Image:
    return Image(augment=augment).with_facts(image=FORM, labels=LabelSet(("a", "b")), data_seed=7)


def table(told: Image):
    return as_table(
        told.encode_batch([{"image": encoded(each), "label": "a"} for each in PIXELS], None),
        told.sequences,
        told.prepare,
    )


def seen(told: Image, rows: list[int], epochs: list[int]) -> np.ndarray:
    found = told.view(table(told), np.array(rows), np.array(epochs)).load()
    return found[IMAGE].columns["pixels"]


@pytest.mark.parametrize(
    "augment", [{"flip": 0.5}, {"crop": 3}, {"erase": 0.7}, {"flip": 0.3, "crop": 2, "erase": 0.5}], ids=str
)
def test_pixel_by_pixel_as_the_oracle(augment):
    rows, epochs = [*range(40), 3, 3], [0] * 40 + [1, 5]
    found = seen(task(**augment), rows, epochs)
    for place, (row, epoch) in enumerate(zip(rows, epochs, strict=True)):
        expected = picture(PIXELS[row].tolist(), key=(7, STREAM, epoch, row), **augment)
        assert np.array_equal(found[place], expected.numpy())
    changed = [not np.array_equal(found[row], picture(PIXELS[row].tolist()).numpy()) for row in range(40)]
    assert sum(changed) > 5, "many are changed"
    assert not np.array_equal(found[3], found[41]), "each epoch draws anew"


def test_neither_the_company_nor_the_place_matters():
    told = task(flip=0.5, crop=3, erase=0.5)
    together = seen(told, list(range(40)), [2] * 40)
    assert all(np.array_equal(seen(told, [row], [2])[0], together[row]) for row in (0, 17, 39))
    assert np.array_equal(seen(told, [5, 3, 5], [2, 2, 2]), together[[5, 3, 5]])


def test_shares():
    states_B = sample_states(0, STREAM, np.zeros(20_000, np.int64), np.arange(20_000))
    ramp = np.tile(np.arange(8, dtype=np.uint8)[None, None, :, None], (20_000, 8, 1, 1)) + 1
    mirrored = moved(ramp, states_B, Augment(flip=0.25))[:, 0, 0, 0] == 8
    assert mirrored.mean() == pytest.approx(0.25, abs=0.01)
    shifted = moved(ramp, states_B, Augment(crop=2))[:, 4, 4, 0].astype(int) - 5
    assert [round(float((shifted == by).mean()), 1) for by in (-2, -1, 0, 1, 2)] == [0.2] * 5
    numbers = np.ones((20_000, 1, 32, 32), np.float32)
    erase(numbers, states_B, Augment(erase=0.5))
    areas = 1 - numbers.mean((1, 2, 3))
    assert (areas > 0).mean() == pytest.approx(0.5, abs=0.01)
    assert areas[areas > 0].mean() == pytest.approx(0.175, abs=0.015)
    assert areas.max() <= 0.34


def test_evaluations_see_images_as_they_are():
    told = task(flip=1.0, crop=3, erase=1.0)
    found = told.fixed(told.arrange(table(told))).take(np.array([4])).load()
    assert np.array_equal(found[IMAGE].columns["pixels"][0], picture(PIXELS[4].tolist()).numpy())
    assert not Image(augment={"flip": 0.0}).has_view
    assert not Image().has_view


def test_a_gathered_table_is_made_ready_once():
    found = table(Image().with_facts(image=FORM, labels=LabelSet(("a", "b")))).take(np.arange(3))
    whole = found.load()
    assert whole[IMAGE].columns["pixels"].shape == (3, 3, 8, 8)
    assert whole.load()[IMAGE].columns["pixels"] is whole[IMAGE].columns["pixels"]
    assert found[IMAGE].columns["pixels"].dtype == np.uint8, "what lies in the cache stays bytes"


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"flop": 0.5}, r"augment\.flop: unknown key; did you mean .*flip"),
        ({"flip": 2}, r"augment\.flip: .*2"),
        ({"crop": -1}, r"augment\.crop"),
        ({"crop": 1.5}, r"augment\.crop"),
        ("strong", r"augment"),
    ],
    ids=str,
)
def test_mistakes_are_named(augment, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(
            {"model": "x", "data": {"train": "x"}, "task": {"name": "image", "augment": augment}}, environ={}
        )

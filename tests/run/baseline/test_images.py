"""Simple models of images: what they see, and that they find what can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from bigbatch.data.labels import LabelSet
from bigbatch.data.pixels import ImageForm
from bigbatch.data.tables import from_rows
from bigbatch.data.tokens import as_table
from bigbatch.run.baseline.images import LINEAR, SIMILAR, image_baselines, numbers_of
from bigbatch.run.baseline.model import Split
from bigbatch.tasks.image import Image
from tests.pictures import NAMES, image_rows


def split(rows, size: int = 16) -> Split:
    form = ImageForm(height=size, width=size, channels=3, positions=17)
    task = Image().with_facts(image=form, labels=LabelSet(NAMES))
    return Split(
        rows=from_rows([{"label": row["label"]} for row in rows]),
        table=as_table(task.encode_batch(rows, None), task.sequences, task.prepare),
    )


TRAIN, TEST = image_rows(300, 1), image_rows(200, 2)


@pytest.fixture(scope="module")
def found():
    return {baseline.name: baseline.outputs(split(TEST)) for baseline in image_baselines(split(TRAIN), 3, 30)}


def truth(rows) -> np.ndarray:
    return np.array([NAMES.index(row["label"]) for row in rows])


def test_the_linear_model_is_logistic_regression(found):
    seen, asked = (
        np.stack([row["image"] for row in rows]).reshape(len(rows), -1) / 255 for rows in (TRAIN, TEST)
    )
    centre, scale = seen.mean(0), seen.std()
    oracle = LogisticRegression(C=10, max_iter=2000).fit((seen - centre) / scale, truth(TRAIN))
    right = oracle.predict((asked - centre) / scale) == truth(TEST)
    mine = found[LINEAR].argmax(1) == truth(TEST)
    assert right.mean() > 0.8
    assert mine.mean() == pytest.approx(right.mean(), abs=0.02)


def test_the_most_similar_images_vote(found):
    seen, asked = (
        np.stack([row["image"] for row in rows]).reshape(len(rows), -1) / 255 for rows in (TRAIN, TEST)
    )
    oracle = KNeighborsClassifier(5).fit(seen, truth(TRAIN)).predict_proba(asked)
    clear = np.sort(oracle, 1)[:, -1] > np.sort(oracle, 1)[:, -2] + 0.1
    assert (found[SIMILAR].argmax(1) == oracle.argmax(1))[clear].all()
    assert clear.mean() > 0.8


def test_the_majority(found):
    assert len(np.unique(found["majority"], axis=0)) == 1
    assert found["majority"][0].argmax() == np.bincount(truth(TRAIN)).argmax()


def test_large_images_are_seen_through_a_grid():
    rows = image_rows(3, 0, size=100)
    numbers = numbers_of(split(rows, 100).table, np.array([2, 0]))
    assert numbers.shape == (2, 25 * 25 * 3)
    expected = rows[2]["image"][:4, 4:8].mean((0, 1)) / 255
    assert np.allclose(numbers[0, 3:6], expected, atol=1e-6)

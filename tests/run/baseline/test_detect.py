"""Simple detectors: spots are found where they are and called as what they are; the usual boxes are means."""

from __future__ import annotations

import numpy as np
import pytest

from bigbatch.data.boxes import BOX, CLASS, LEARNT, has
from bigbatch.data.labels import LabelSet
from bigbatch.data.pixels import ImageForm
from bigbatch.data.tables import from_rows
from bigbatch.data.tokens import as_table
from bigbatch.infer.evaluate import judged
from bigbatch.run.baseline.detect import SPOTS, USUAL, detect_baselines, otsu, seen, spots
from bigbatch.run.baseline.model import Split
from bigbatch.tasks.detect import Detect

pytest.importorskip("faster_coco_eval")
NAMES, SIDE = ("falling", "rising"), 32
TASK = Detect().with_facts(
    image=ImageForm(height=SIDE, width=SIDE, channels=1, positions=17, queries=4), labels=LabelSet(NAMES)
)


def rows(count: int, seed: int) -> list[dict[str, object]]:
    """One or two rectangles on a dark ground, brighter towards their end or their beginning."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        pixels, boxes, classes = random.integers(0, 20, (SIDE, SIDE)), [], []
        for half in range(int(random.integers(1, 3))):
            width, height = (int(each) for each in random.integers(6, 13, 2))
            left, top = (
                int(random.integers(16 * half, 16 * half + 15 - width)),
                int(random.integers(SIDE - height)),
            )
            kind = int(random.integers(2))
            shades = np.linspace(120, 250, height)[:: 2 * kind - 1]
            pixels[top : top + height, left : left + width] = shades[:, None]
            boxes.append([left, top, width, height])
            classes.append(NAMES[kind])
        found.append(
            {"image": pixels.astype(np.uint8), "boxes": [{"bbox": box} for box in boxes], "classes": classes}
        )
    return found


def split(count: int, seed: int) -> Split:
    from bigbatch.files.boxes import boxes_of

    given = [{**row, "boxes": boxes_of(row["boxes"])} for row in rows(count, seed)]
    return Split(
        rows=from_rows([{"text": "x"} for _ in given]),
        table=as_table(TASK.encode_batch(given, None), TASK.sequences, TASK.prepare),
    )


TRAIN, TEST = split(40, 1), split(40, 2)


@pytest.fixture(scope="module")
def found():
    return {each.name: each.outputs(TEST) for each in detect_baselines(TRAIN, len(NAMES))}


def test_spots_are_found_and_told_apart(found):
    figures = judged(TASK, TEST.table, found[SPOTS]).metrics
    assert figures["map_50"] is not None and figures["map_50"] > 0.95
    usual = judged(TASK, TEST.table, found[USUAL]).metrics["map_50"]
    assert usual is not None and usual < 0.2


def test_the_usual_boxes_are_means_of_the_training_boxes(found):
    values = np.asarray(TRAIN.table.values)
    things = values[has(values, LEARNT)]
    for row in found[USUAL].values[:2]:
        own = things[things[:, CLASS] == row[0]]
        assert np.allclose(row[1:5], own[:, BOX].mean(0))
        assert row[5] == pytest.approx(len(own) / len(things))


def test_parts():
    """Otsu's threshold lies between two groups; a box is seen in shades alone; no spot on one shade."""
    assert 0.1 < otsu(np.array([0.0, 0.05, 0.1, 0.9, 0.95, 1.0])) < 0.9
    grey = np.linspace(0, 1, 16)[:, None] * np.ones(16)
    whole = np.array([0.0, 0.0, 1.0, 1.0])
    assert np.allclose(seen(grey, whole), seen(0.3 + grey / 2, whole))
    assert np.linalg.norm(seen(grey, whole)) == pytest.approx(1)
    assert spots(np.full((16, 16), 0.5)) == []

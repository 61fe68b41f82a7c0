"""Figures of boxes: equal to pycocotools on the file and results themselves, however the stream is cut."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest

from bigbatch.data.boxes import units_of
from bigbatch.metrics.boxes import FIGURES, BoxMetric, box_metrics
from bigbatch.metrics.figures import why_undefined
from bigbatch.samples import Predictions, Targets

pytest.importorskip("faster_coco_eval")
coco = pytest.importorskip("pycocotools.coco")
cocoeval = pytest.importorskip("pycocotools.cocoeval")
QUERIES = 7
EVERY = BoxMetric(name="map", reported=tuple(FIGURES))


def scenes(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Images of different sizes with things, crowds among them, and boxes that are found near some of them."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = np.array([random.integers(50, 400), random.integers(50, 400)], float)
        things = []
        for _ in range(random.integers(0, 10)):
            wide, high = random.uniform(0.05, 0.6, 2) * size
            left, top = random.uniform(0, 1, 2) * (size - [wide, high])
            things.append((left, top, wide, high, int(random.integers(3)), bool(random.random() < 0.15)))
        boxes = []
        for place in range(QUERIES):
            near = (
                things[place % len(things)]
                if things and random.random() < 0.8
                else (10.0, 10.0, 30.0, 30.0, 0, False)
            )
            shift = random.normal(0, 0.1, 4) * [near[2], near[3], near[2], near[3]]
            kind = (
                near[4] if random.random() < 0.8 else int(random.integers(4))
            )  # 3: nothing is of this class
            boxes.append((*(np.array(near[:4]) + shift), kind, random.uniform()))
        found.append({"size": size, "things": things, "boxes": boxes})
    return found


def units(scene: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(U, 9) and (U, 6) of an image."""
    things = np.array([each[:5] for each in scene["things"]], float).reshape(-1, 5)
    crowds = np.array([each[5] for each in scene["things"]], bool)
    size, sides = scene["size"], np.tile(scene["size"], 2)

    def centred(boxes: np.ndarray) -> np.ndarray:
        return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1) / sides

    values = units_of(
        boxes=centred(things[:, :4]),
        classes=things[:, 4],
        areas=things[:, 2] * things[:, 3],
        crowds=crowds,
        queries=QUERIES,
        size=(size[0], size[1]),
    )
    given = np.array(scene["boxes"])
    told = np.zeros((len(values), 6))
    told[:QUERIES] = np.column_stack([given[:, 4], centred(given[:, :4]), given[:, 5]])
    return values, told


def state(chosen: list[dict[str, Any]], metric: BoxMetric = EVERY) -> Any:
    pairs = [units(scene) for scene in chosen]
    values, told = (np.concatenate(each) for each in zip(*pairs, strict=True))
    predictions = Predictions(kind="boxes", scores=told, probabilities=None, values=told)
    return metric.add(predictions, Targets(values=values, weights=np.ones(len(values), np.float32)))


def by_pycocotools(chosen: list[dict[str, Any]]) -> list[float]:
    """COCO's summary of the file and the results, in pixels as they were."""
    about: dict[str, Any] = {
        "images": [{"id": number} for number, _ in enumerate(chosen, start=1)],
        "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
        "annotations": [],
    }
    results = []
    for number, scene in enumerate(chosen, start=1):
        for left, top, wide, high, kind, crowd in scene["things"]:
            about["annotations"].append(
                {
                    "id": len(about["annotations"]) + 1,
                    "image_id": number,
                    "category_id": kind + 1,
                    "bbox": [left, top, wide, high],
                    "area": wide * high,
                    "iscrowd": int(crowd),
                }
            )
        for left, top, wide, high, kind, sure in scene["boxes"]:
            box = [float(each) for each in (left, top, wide, high)]
            results.append({"image_id": number, "category_id": kind + 1, "bbox": box, "score": sure})
    with contextlib.redirect_stdout(io.StringIO()):
        right = coco.COCO()
        right.dataset = json.loads(json.dumps(about))
        right.createIndex()
        counted = cocoeval.COCOeval(right, right.loadRes(results), "bbox")
        counted.evaluate()
        counted.accumulate()
        counted.summarize()
    return counted.stats.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_pycocotools(seed):
    chosen = scenes(30, seed)
    expected = by_pycocotools(chosen)
    found = EVERY.value(state(chosen))
    for name, place in FIGURES.items():
        assert found[name] == pytest.approx(expected[place], abs=1e-12), name
    assert 0.05 < found["map_50"] < 0.95


def test_no_cut_changes_a_figure():
    chosen = scenes(30)
    whole, parts = EVERY.value(state(chosen)), state(chosen[:7])
    for first, end in ((7, 8), (8, 20), (20, 30)):
        parts = EVERY.merge(parts, state(chosen[first:end]))
    assert EVERY.value(parts) == whole


def test_images_without_things_or_weight():
    empty = [{**scene, "things": []} for scene in scenes(3)]
    assert why_undefined(EVERY.value(state(empty))["map"]) == "no image shows anything"
    chosen = scenes(10)
    values, told = units(chosen[0])
    hidden = EVERY.add(
        Predictions(kind="boxes", scores=told, probabilities=None, values=told),
        Targets(values=values, weights=np.zeros(len(values), np.float32)),
    )
    assert EVERY.value(EVERY.merge(state(chosen), hidden)) == EVERY.value(state(chosen))
    one = box_metrics()["map_50"]
    assert dict(one.value(state(chosen, one))) == {"map_50": EVERY.value(state(chosen))["map_50"]}

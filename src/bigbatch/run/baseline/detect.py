"""Baselines of detection: always the usual boxes; and bright or dark spots, called as what they look like most.

A spot is a connected part of an image that differs from its background, which is the median, by more than Otsu's
threshold (1979). Its class is that of the nearest mean of training boxes, seen through a grid of 8 x 8 means. On
photographs both find little; on plain backgrounds spots are hard to beat.

Shapes: U units, Q boxes that a model gives of an image, n things, K classes, F numbers of a box.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigbatch.data.boxes import BOX, CLASS, LEARNT, QUERY, corners, has
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.samples import Predictions, Table

USUAL, SPOTS = "usual_boxes", "spots"
_GRID = 8
_MOST_IMAGES = 5000
"""That classes are learnt of."""
_LEAST = 0.002
"""Share of an image that a spot covers at least."""


def detect_baselines(train: Split, outputs: int) -> Iterator[Baseline]:
    """Those of `task: detect`.

    Args:
        train: the images to learn from.
        outputs: K.
    """
    values = np.asarray(train.table.values, np.float64)
    things = values[has(values, LEARNT) & (np.asarray(train.table.weights) > 0)]
    if not len(things):
        return
    yield Baseline(name=USUAL, outputs=lambda split: _usual(split.table, things, outputs))
    means, kept = _class_means(train.table, outputs)
    note = f"learnt of {kept:,} of {len(train.table):,} images" if kept < len(train.table) else ""
    yield Baseline(name=SPOTS, outputs=lambda split: _spots(split.table, means), note=note)


def _usual(table: Table, things: np.ndarray, outputs: int) -> Predictions:
    """The mean box of each class, the most frequent class first, on every image alike."""
    counts = np.bincount(things[:, CLASS].astype(np.int64), minlength=outputs)
    order = [kind for kind in np.argsort(-counts, kind="stable") if counts[kind]]
    boxes = np.array(
        [
            [kind, *things[things[:, CLASS] == kind][:, BOX].mean(0), counts[kind] / len(things)]
            for kind in order
        ]
    )
    return _predictions(table, [boxes] * len(table))


def _class_means(table: Table, outputs: int) -> tuple[np.ndarray, int]:
    """(K, F) mean of what is in the boxes of each class; NaN without any. And of how many images."""
    rows = spread(len(table), _MOST_IMAGES)
    sums, counts = np.zeros((outputs, _GRID * _GRID)), np.zeros(outputs)
    offsets, values = np.asarray(table.unit_offsets), np.asarray(table.values, np.float64)
    for row in rows:
        own = values[offsets[row] : offsets[row + 1]]
        own = own[has(own, LEARNT)]
        grey = grey_of(table, int(row))
        for thing, sides in zip(own, corners(own[:, BOX]), strict=True):
            sums[int(thing[CLASS])] += seen(grey, sides)
            counts[int(thing[CLASS])] += 1
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None], len(rows)


def _spots(table: Table, means: np.ndarray) -> Predictions:
    """Each spot with the class that it is nearest to."""
    found = []
    known = np.flatnonzero(np.isfinite(means).all(1))
    for row in range(len(table)):
        grey, boxes = grey_of(table, row), []
        for sides in spots(grey):
            near = means[known] @ seen(grey, sides)
            best = int(np.argmax(near))
            middle, size = (sides[:2] + sides[2:]) / 2, sides[2:] - sides[:2]
            boxes.append([known[best], *middle, *size, 1 / (1 + np.exp(-near[best]))])
        found.append(np.array(boxes).reshape(-1, 6))
    return _predictions(table, found)


def _predictions(table: Table, boxes: list[np.ndarray]) -> Predictions:
    """Of all units: the surest boxes of each image in its first ones, and nothing (probability 0) in the others."""
    units = np.asarray(table.values, np.float64)
    offsets, values = np.asarray(table.unit_offsets), np.zeros((len(units), 6))
    for row, own in enumerate(boxes):
        places = offsets[row] + np.flatnonzero(has(units[offsets[row] : offsets[row + 1]], QUERY))
        own = own[np.argsort(-own[:, 5], kind="stable")][: len(places)]
        values[places[: len(own)]] = own
        values[places[len(own) :]] = np.nan
    return Predictions(kind="boxes", scores=values, probabilities=None, values=values)


def grey_of(table: Table, row: int) -> np.ndarray:
    """(H, W) float64 in 0 … 1: an image without colours."""
    pixels = table["image"].take(np.array([row])).load().columns["pixels"][0]
    return np.asarray(pixels, np.float64).mean(-1) / 255


def seen(grey: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(F,) what is in a box through a grid of means, of mean 0 and length 1.

    Args:
        grey: (H, W).
        sides: left, top, right, bottom as fractions.
    """
    height, width = grey.shape
    at = [
        np.clip((first + (last - first) * (np.arange(2 * _GRID) + 0.5) / (2 * _GRID)) * size, 0, size - 1)
        for first, last, size in ((sides[1], sides[3], height), (sides[0], sides[2], width))
    ]
    cells = grey[at[0].astype(np.int64)[:, None], at[1].astype(np.int64)[None]]
    numbers = cells.reshape(_GRID, 2, _GRID, 2).mean((1, 3)).ravel()
    numbers = numbers - numbers.mean()
    return numbers / max(float(np.linalg.norm(numbers)), 1e-12)


def spots(grey: np.ndarray) -> list[np.ndarray]:
    """Left, top, right, bottom, as fractions, of each connected part that differs from the background.

    Args:
        grey: (H, W).
    """
    from scipy import ndimage

    away = np.abs(grey - np.median(grey))
    labels = np.empty(grey.shape, np.int32)
    ndimage.label(away > max(otsu(away), 0.0), np.ones((3, 3)), output=labels)
    height, width = grey.shape
    found = []
    for rows, columns in ndimage.find_objects(labels):
        box = np.array([columns.start / width, rows.start / height, columns.stop / width, rows.stop / height])
        if (box[2] - box[0]) * (box[3] - box[1]) >= _LEAST:
            found.append(box)
    return found


def otsu(values: np.ndarray) -> float:
    """The threshold between two groups of numbers that are then most different (Otsu 1979)."""
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums, total = np.cumsum(counts * middles)[:-1], float((counts * middles).sum())
    above = counts.sum() - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (total - sums) / above) ** 2
    return float(edges[1:-1][np.argmax(np.nan_to_num(apart))])

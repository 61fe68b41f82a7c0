"""Baselines of images: the majority, a linear model of their pixels, and the most similar training images.

Large images are looked at through a grid of at most 32 x 32 means.

Shapes: N images, H, W, C of one, F numbers of one, K classes, M training images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from bigbatch.run.baseline.classify import constant_outputs
from bigbatch.run.baseline.linear import fit
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.samples import Table

LINEAR, SIMILAR = "linear_pixels", "similar_images"
NEIGHBOURS = 5
_GRID = 32
_MOST_NUMBERS = 48_000_000
"""Of the linear model's training images: 192 MB."""
_MOST_COMPARED = 8_000_000
"""Numbers of the training images that every other image is held against: 10,000 of 28 x 28."""
_AT_A_TIME = 1024


def image_baselines(train: Split, outputs: int, seconds: float) -> Iterator[Baseline]:
    """Those of `task: image`.

    Args:
        train: the images to learn from.
        outputs: K.
        seconds: that fitting may take.
    """
    table = train.table
    counted = np.flatnonzero(np.asarray(table.weights) > 0)
    if not len(counted):
        return
    classes = np.asarray(table.values)[counted]
    constant_K = constant_outputs(classes, "single", outputs)
    yield Baseline(name="majority", outputs=lambda split: np.tile(constant_K, (len(split.table), 1)))
    width = numbers_of(table, counted[:1]).shape[1]
    kept = spread(len(counted), max(1, _MOST_NUMBERS // width))
    seen_NF = numbers_of(table, counted[kept])
    centre_F, scale = seen_NF.mean(0), max(float(seen_NF.std()), 1e-6)
    seen_NF -= centre_F
    seen_NF /= scale
    model = fit(seen_NF, classes[kept], "single", outputs=outputs, seconds=seconds)
    notes = [f"fitted on {len(kept):,} of {len(counted):,} images"] if len(kept) < len(counted) else []
    if not model.done:
        notes.append(f"stopped after {model.steps} steps, before it had converged")
    yield Baseline(
        name=LINEAR,
        outputs=lambda split: np.concatenate(
            [model((numbers_of(split.table, rows) - centre_F) / scale) for rows in _pieces(split.table)]
        ),
        note="; ".join(notes),
    )
    compared = spread(len(kept), max(1, _MOST_COMPARED // width))
    memory_MF, classes_M = torch.from_numpy(seen_NF[compared]), classes[kept][compared]
    lengths_M = memory_MF.square().sum(1)

    def votes(split: Split) -> np.ndarray:
        found = []
        for rows in _pieces(split.table):
            asked_NF = torch.from_numpy((numbers_of(split.table, rows) - centre_F) / scale)
            # |a - b|^2 without |a|^2, which is the same for all of a row
            near_NJ = (lengths_M - 2 * asked_NF @ memory_MF.T).topk(
                min(NEIGHBOURS, len(classes_M)), largest=False
            )
            of_NJ = classes_M[near_NJ.indices.numpy()]
            counts_NK = (of_NJ[:, :, None] == np.arange(outputs)).sum(1) + 1 / outputs
            counts_NK[np.arange(len(rows)), of_NJ[:, 0]] += 0.5  # of equally many votes the nearest decides
            found.append(np.log(counts_NK / counts_NK.sum(1, keepdims=True)))
        return np.concatenate(found)

    few = f"{len(compared):,} of {len(counted):,} training images are compared"
    yield Baseline(name=SIMILAR, outputs=votes, note=few if len(compared) < len(counted) else "")


def _pieces(table: Table) -> list[np.ndarray]:
    rows = np.arange(len(table))
    return [rows[first : first + _AT_A_TIME] for first in range(0, len(rows), _AT_A_TIME)]


def numbers_of(table: Table, rows: np.ndarray) -> np.ndarray:
    """(N, F) float32 in 0 … 1: the pixels of some images, or means of a grid of them."""
    stream = table["image"].take(rows)
    height, width, channels = stream.columns["pixels"].shape[1:]
    down, across = -(-height // _GRID), -(-width // _GRID)
    tall, wide = height // down, width // across
    found = np.empty((len(rows), tall * wide * channels), np.float32)
    for first in range(0, len(rows), _AT_A_TIME):
        pixels = stream.take(np.arange(first, min(first + _AT_A_TIME, len(rows)))).load().columns["pixels"]
        cells = pixels[:, : tall * down, : wide * across].reshape(-1, tall, down, wide, across, channels)
        found[first : first + len(cells)] = cells.mean((2, 4), dtype=np.float32).reshape(len(cells), -1) / 255
    return found

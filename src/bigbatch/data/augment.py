"""Images changed at random: a pure function of (seed, epoch, sample), never of how a batch is cut.

    state(sample) = splitmix64 chain of (seed, stream, epoch, sample)
    draw k        = output k of the generator started at that state, as a fraction in [0, 1)

Draw 0: mirrored or not; 1 and 2: by how much the image is shifted down and to the right; 3: whether a rectangle is
erased (Zhong et al. 2017), 4 to 7: its area, shape and place. Shifting is cropping from an image with black around it.

Shapes: B samples, H, W, C of an image.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from bigbatch.data.boxes import (
    AREA,
    BOX,
    BOX_HEIGHT,
    BOX_WIDTH,
    CENTRE_X,
    CENTRE_Y,
    CROWD,
    FIRST,
    FLAGS,
    LEARNT,
    QUERY,
    corners,
    flags_of,
)
from bigbatch.data.order import fractions_at, sample_states
from bigbatch.data.pixels import normalised
from bigbatch.data.rand_augment import rand_augmented
from bigbatch.recipe.tasks import Augment
from bigbatch.samples import Stream, Table

STREAM = 0x1A6E
"""Stream of random numbers: apart from the order's and the masks', which start from the same seed."""
IMAGE, DRAWS = "image", "draws"
"""Streams: the column `pixels`; and in a view `draw`, the state of each sample's generator."""
LEAST_SEEN = 0.25
"""Share of a box that must still be on an image which was shifted."""
ERASED, SHAPE = (0.02, 0.33), (0.3, 10 / 3)
"""Of an erased rectangle: share of the image, and height by width."""


def with_draws(table: Table, rows_B: np.ndarray, epochs_B: np.ndarray, seed: int) -> Table:
    """The rows, with what decides how each is changed in its epoch.

    Args:
        table: of images.
        rows_B: (B,) int64.
        epochs_B: (B,) int64, from 0.
        seed: `seed.data`.
    """
    states_B = sample_states(seed, STREAM, epochs_B, rows_B)
    draws = Stream(columns={"draw": states_B}, offsets=np.arange(len(rows_B) + 1, dtype=np.int64))
    return table.take(rows_B).replaced(**{DRAWS: draws})


def made_ready(piece: Table, how: Augment, numbers_CV: np.ndarray) -> Table:
    """Gathered samples with (B, C, H, W) float32 instead of pixels: changed as their draws say, and normalised.

    Args:
        piece: gathered; without draws nothing is changed.
        how: what is done.
        numbers_CV: (C, 256) what each value of a pixel becomes.
    """
    stream, draws = piece[IMAGE], piece.streams.get(DRAWS)
    pixels = np.asarray(stream.columns["pixels"])
    states_B = None if draws is None else draws.columns["draw"]
    numbers = (
        normalised(pixels, numbers_CV) if states_B is None else changed(pixels, states_B, how, numbers_CV)
    )
    return piece.replaced(**{IMAGE: replace(stream, columns={"pixels": numbers})})


def changed(pixels: np.ndarray, states_B: np.ndarray, how: Augment, numbers_CV: np.ndarray) -> np.ndarray:
    """(B, C, H, W) float32: images mirrored, shifted, changed by RandAugment, normalised, and with a rectangle erased.

    Args:
        pixels: (B, H, W, C) uint8.
        states_B: (B,) uint64, of each sample.
        how: what is done.
        numbers_CV: (C, 256) what each value of a pixel becomes.
    """
    pixels = moved(pixels, states_B, how)
    if how.randaugment:
        pixels = rand_augmented(pixels, states_B, how.randaugment, how.operations)
    numbers = normalised(pixels, numbers_CV)
    erase(numbers, states_B, how)
    return numbers


def geometry(states_B: np.ndarray, how: Augment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B,) whether an image is mirrored; then by how many pixels it is shifted down, and to the right."""
    down_B, right_B = (_whole(states_B, number, 2 * how.crop + 1) - how.crop for number in (1, 2))
    return draw(states_B, 0) < how.flip, down_B, right_B


def moved_boxes(
    values_U: np.ndarray, states_U: np.ndarray, how: Augment, size: tuple[int, int]
) -> np.ndarray:
    """(U, 9) what stands in units once their images are mirrored and shifted: boxes are cut to what is seen of them,
    and one of which less than `LEAST_SEEN` is seen is neither learnt nor a crowd.

    Args:
        values_U: (U, 9) of `data.boxes`.
        states_U: (U,) uint64, of the image of each.
        how: what is done.
        size: height and width of pixels.
    """
    height, width = size
    mirrored_U, down_U, right_U = geometry(states_U, how)
    found_U = values_U.copy()
    found_U[:, CENTRE_X] = np.where(mirrored_U, 1 - found_U[:, CENTRE_X], found_U[:, CENTRE_X])
    found_U[:, CENTRE_X] += right_U / width
    found_U[:, CENTRE_Y] += down_U / height
    seen_U4 = corners(found_U[:, BOX]).clip(0, 1)
    sides_U2 = seen_U4[:, 2:] - seen_U4[:, :2]
    before_U = found_U[:, BOX_WIDTH] * found_U[:, BOX_HEIGHT]
    shares_U = np.divide(sides_U2.prod(-1), before_U, out=np.zeros(len(before_U)), where=before_U > 0)
    found_U[:, BOX] = np.concatenate([(seen_U4[:, :2] + seen_U4[:, 2:]) / 2, sides_U2], axis=1)
    found_U[:, AREA] *= shares_U
    kept_U = np.where(shares_U >= LEAST_SEEN, LEARNT | CROWD, 0) | FIRST | QUERY
    found_U[:, FLAGS] = flags_of(values_U) & kept_U
    return found_U


def moved(pixels: np.ndarray, states_B: np.ndarray, how: Augment) -> np.ndarray:
    """(B, H, W, C) uint8 pixels, mirrored and shifted.

    Args:
        pixels: (B, H, W, C) uint8.
        states_B: (B,) uint64, of each sample.
        how: what is done.
    """
    if not (how.flip or how.crop):
        return pixels
    height, width = pixels.shape[1:3]
    mirrored_B, down_B, right_B = geometry(states_B, how)
    rows_BH = np.arange(height) - down_B[:, None]
    columns_BW = np.arange(width) - right_B[:, None]
    columns_BW = np.where(mirrored_B[:, None], width - 1 - columns_BW, columns_BW)
    found = pixels[
        np.arange(len(pixels))[:, None, None],
        rows_BH.clip(0, height - 1)[:, :, None],
        columns_BW.clip(0, width - 1)[:, None, :],
    ]
    outside_BH = (rows_BH < 0) | (rows_BH >= height)
    outside_BW = (columns_BW < 0) | (columns_BW >= width)
    found[outside_BH[:, :, None] | outside_BW[:, None, :]] = 0
    return found


def erase(numbers: np.ndarray, states_B: np.ndarray, how: Augment) -> None:
    """Set a rectangle of some images to 0, which is the mean of normalised pixels, in place.

    Args:
        numbers: (B, C, H, W) float32.
        states_B: (B,) uint64, of each sample.
        how: with which probability.
    """
    height, width = numbers.shape[2:]
    least, most = ERASED
    areas_B = (least + (most - least) * draw(states_B, 4)) * height * width
    narrow, tall = map(math.log, SHAPE)
    shapes_B = np.exp(narrow + (tall - narrow) * draw(states_B, 5))
    heights_B = np.sqrt(areas_B * shapes_B).astype(np.int64).clip(1, height)
    widths_B = np.sqrt(areas_B / shapes_B).astype(np.int64).clip(1, width)
    tops_B = (draw(states_B, 6) * (height - heights_B + 1)).astype(np.int64)
    lefts_B = (draw(states_B, 7) * (width - widths_B + 1)).astype(np.int64)
    for row in np.flatnonzero(draw(states_B, 3) < how.erase):
        top, left = tops_B[row], lefts_B[row]
        numbers[row, :, top : top + heights_B[row], left : left + widths_B[row]] = 0


def _whole(states_B: np.ndarray, number: int, below: int) -> np.ndarray:
    """(B,) int64 from 0 to below - 1."""
    return (draw(states_B, number) * below).astype(np.int64)


def draw(states_B: np.ndarray, number: int) -> np.ndarray:
    """(B,) float64 in [0, 1)."""
    return fractions_at(states_B, np.full(1, number))

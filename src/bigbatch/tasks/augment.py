"""Images changed at random: a pure function of (seed, epoch, sample), never of how a batch is cut.

    state(sample) = splitmix64 chain of (seed, stream, epoch, sample)
    draw k        = output k of the generator started at that state, as a fraction in [0, 1)

Draw 0: mirrored or not; 1 and 2: by how much the image is shifted down and to the right; 3: whether a rectangle is
erased (Zhong et al. 2017), 4 to 7: its area, shape and place. Shifting is cropping from an image with black around it.

Shapes: B samples, H, W, C of an image.
"""

from __future__ import annotations

import math

import numpy as np

from bigbatch.data.order import fractions_at
from bigbatch.recipe.tasks import Augment

STREAM = 0x1A6E
"""Stream of random numbers: apart from the order's and the masks', which start from the same seed."""
AREA, SHAPE = (0.02, 0.33), (0.3, 10 / 3)
"""Of an erased rectangle: share of the image, and height by width."""


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
    down_B, right_B = (_whole(states_B, number, 2 * how.crop + 1) - how.crop for number in (1, 2))
    rows_BH = np.arange(height) - down_B[:, None]
    columns_BW = np.arange(width) - right_B[:, None]
    mirrored_B = draw(states_B, 0) < how.flip
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
    least, most = AREA
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

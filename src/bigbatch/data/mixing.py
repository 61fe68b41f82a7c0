"""Two images as one: mixed (mixup) or one pasted into the other (CutMix), and learnt as both of their classes.

    mixup    a x + (1 - a) x'                       CutMix    x with a rectangle of x', a = 1 - its share of the image
    a ~ Beta(alpha, alpha), x' any image of the training split

Elsewhere x' is drawn from the images that happen to be in the same batch, or micro-batch, and a is one number for all
of them. Here both are functions of (seed, epoch, sample), so that no cut, no rank and no resume can change an image.

A mixed image has two units: its own class with weight a, the other's with 1 - a. Any loss of units is then right, and
what is divided by is still known before a forward.

Shapes: B samples, H, W, C of an image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bigbatch.data.augment import DRAWS, IMAGE, STREAM, changed, draw
from bigbatch.data.order import fractions_at, sample_states
from bigbatch.recipe.tasks import Augment
from bigbatch.samples import UNITS, Stream, Table

PARTNER = "partner"
"""A stream: the pixels of the other image."""
OTHER, WHICH, DOWN, RIGHT, BETA = 8, 9, 10, 11, 64
"""Numbers of draws: the other image; mixup or CutMix, where both are asked for; the rectangle's middle; from here on
pairs for the Beta distribution."""
TRIALS = 64


def beta(states_B: np.ndarray, alpha: float) -> np.ndarray:
    """(B,) of Beta(alpha, alpha): the first pair of draws u, v with u^(1/alpha) + v^(1/alpha) <= 1 (Jöhnk 1964).

    Args:
        states_B: (B,) uint64, of each sample.
        alpha: above 0, at most 2; so that of 64 pairs one fits all but surely (1/2 of them for 1, 1/6 for 2).
    """
    found_B, open_B = np.full(len(states_B), 0.5), np.ones(len(states_B), bool)
    for trial in range(TRIALS):
        left, right = (
            np.log(np.maximum(fractions_at(states_B, np.full(1, BETA + 2 * trial + side)), 1e-300)) / alpha
            for side in (0, 1)
        )
        # In logarithms: for small alpha both powers may be too small for a number.
        top = np.maximum(left, right)
        whole = top + np.log(np.exp(left - top) + np.exp(right - top))
        fits_B = open_B & (whole <= 0)
        found_B[fits_B] = np.exp(left - whole)[fits_B]
        open_B &= ~fits_B
        if not open_B.any():
            break
    return found_B


def mixed_view(drawn: Table, table: Table, epochs_B: np.ndarray, seed: int, how: Augment) -> Table:
    """Samples with the other image and both classes.

    Args:
        drawn: the samples, with their draws (`augment.with_draws`).
        table: the whole split.
        epochs_B: (B,) int64 of each.
        seed: `seed.data`.
        how: what is done.
    """
    states_B = np.asarray(drawn[DRAWS].columns["draw"])
    others_B = (draw(states_B, OTHER) * len(table)).astype(np.int64)
    pasted_B = draw(states_B, WHICH) < (0.5 if how.mixup and how.cutmix else float(how.cutmix > 0))
    shares_B = beta(states_B, how.mixup) if how.mixup else np.ones(len(states_B))
    size = table[IMAGE].columns["pixels"].shape[1:3]
    boxes_B4 = np.zeros((len(states_B), 4), np.int64)
    if how.cutmix:
        boxes_B4[pasted_B] = rectangles(states_B, 1 - beta(states_B, how.cutmix), size)[pasted_B]
        areas_B = (boxes_B4[:, 2] - boxes_B4[:, 0]) * (boxes_B4[:, 3] - boxes_B4[:, 1])
        shares_B = np.where(pasted_B, 1 - areas_B / (size[0] * size[1]), shares_B)
    columns = {
        **drawn[DRAWS].columns,
        "other": sample_states(seed, STREAM, epochs_B, others_B),
        "share": np.where(pasted_B, 1.0, shares_B),
        "box": boxes_B4,
    }
    # It does not run through the blocks by itself.
    partner = replace(table[IMAGE].take(others_B), positions=0)
    units = _both(drawn, table, others_B, shares_B)
    draws = replace(drawn[DRAWS], columns=columns)
    return drawn.replaced(**{PARTNER: partner, DRAWS: draws, UNITS: units})


def rectangles(states_B: np.ndarray, areas_B: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(B, 4) top, left, bottom, right: rectangles of the image's shape around a drawn middle, cut at its edges.

    Args:
        states_B: (B,) uint64, of each sample.
        areas_B: (B,) share of the image before they are cut.
        size: height and width.
    """
    sides = []
    for number, length in zip((DOWN, RIGHT), size, strict=True):
        half_B = (np.sqrt(areas_B) * length).astype(np.int64) // 2
        middle_B = (draw(states_B, number) * length).astype(np.int64)
        sides.append((np.maximum(middle_B - half_B, 0), np.minimum(middle_B + half_B, length)))
    (top, bottom), (left, right) = sides
    return np.stack([top, left, bottom, right], axis=1)


def _both(drawn: Table, table: Table, others_B: np.ndarray, shares_B: np.ndarray) -> Stream:
    """Two units a sample: its own class and the other's, weighed by their shares."""
    own, other = drawn[UNITS].load(), table[UNITS].take(others_B).load()
    order = np.arange(2 * len(others_B)).reshape(2, -1).T.ravel()
    columns = {}
    for name, values in own.columns.items():
        theirs = np.asarray(other.columns[name])
        if name == "weights":
            values = np.asarray(values) * shares_B
            theirs = theirs * (1 - shares_B)
        both = np.concatenate([np.asarray(values), theirs])[order]
        columns[name] = both.astype(own.columns[name].dtype)
    return Stream(columns=columns, offsets=2 * np.arange(len(others_B) + 1, dtype=np.int64))


def mixed_ready(piece: Table, numbers: np.ndarray, how: Augment, numbers_CV: np.ndarray) -> np.ndarray:
    """(B, C, H, W) float32: the samples' numbers with the other images in them.

    Args:
        piece: gathered samples of `mixed_view`.
        numbers: (B, C, H, W) float32 of the samples themselves.
        how: what is done.
        numbers_CV: (C, 256) what each value of a pixel becomes.
    """
    draws = piece[DRAWS].columns
    others = changed(np.asarray(piece[PARTNER].columns["pixels"]), draws["other"], how, numbers_CV)
    shares_B = np.asarray(draws["share"])[:, None, None, None]
    mixed = (shares_B * numbers + (1 - shares_B) * others).astype(np.float32)
    for row, (top, left, bottom, right) in enumerate(np.asarray(draws["box"])):
        mixed[row, :, top:bottom, left:right] = others[row, :, top:bottom, left:right]
    return mixed

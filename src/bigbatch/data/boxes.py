"""What stands in a unit of detection: a place for a box that there is, and a place for one that the model gives.

An image has as many units as the model gives boxes (its *queries*), or more where it shows more things. In each of the
first lies a box that is learnt, behind them crowds, behind them nothing. Coordinates are fractions of the image's width
and height, from its upper left corner.

Shapes: U units.
"""

from __future__ import annotations

import numpy as np

FLAGS, CLASS, CENTRE_X, CENTRE_Y, BOX_WIDTH, BOX_HEIGHT, AREA, WIDTH, HEIGHT = range(9)
"""Columns of a unit's values (U, 9) float64: `FIRST | QUERY | …`, class id, the box, its area in square pixels, and
the size of the whole image in pixels."""
BOX = slice(CENTRE_X, BOX_HEIGHT + 1)
"""Centre, width and height."""
COLUMNS = 9
FIRST, QUERY, LEARNT, CROWD = 1, 2, 4, 8
"""Bits of `FLAGS`: the image's first unit; the model gives a box here; here lies a box that is learnt; or a crowd."""


def flags_of(values_U: np.ndarray) -> np.ndarray:
    """(U,) int64."""
    return np.asarray(values_U)[:, FLAGS].astype(np.int64)


def has(values_U: np.ndarray, flag: int) -> np.ndarray:
    """(U,) bool: which units have a flag."""
    return (flags_of(values_U) & flag) > 0


def images_of(values_U: np.ndarray) -> np.ndarray:
    """(U,) int64: which image each unit belongs to, from 0; the first unit must be an image's first."""
    return np.cumsum(has(values_U, FIRST)) - 1


def units_of(
    boxes: np.ndarray,
    classes: np.ndarray,
    areas: np.ndarray,
    crowds: np.ndarray,
    *,
    queries: int,
    size: tuple[float, float],
) -> np.ndarray:
    """(U, 9) float64: an image's units.

    Args:
        boxes: (n, 4) centre, width, height as fractions.
        classes: (n,) ids.
        areas: (n,) square pixels.
        crowds: (n,) bool.
        queries: boxes that the model gives.
        size: width and height of the image in pixels.
    """
    order = np.argsort(crowds, kind="stable")
    values_U = np.zeros((max(queries, len(boxes)), COLUMNS))
    values_U[0, FLAGS] = FIRST
    values_U[:queries, FLAGS] += QUERY
    values_U[:, CLASS] = -1
    values_U[:, WIDTH], values_U[:, HEIGHT] = size
    there = slice(0, len(boxes))
    values_U[there, FLAGS] += np.where(crowds[order], CROWD, LEARNT)
    values_U[there, CLASS], values_U[there, BOX] = classes[order], boxes[order]
    values_U[there, AREA] = areas[order]
    return values_U


def corners(boxes: np.ndarray) -> np.ndarray:
    """(…, 4) centre, width, height -> left, top, right, bottom."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def pairwise(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, m) intersection over union, and the generalised one (Rezatofighi et al. 2019), of all pairs.

    Args:
        boxes: (n, 4) centre, width, height.
        others: (m, 4).
    """
    one, other = corners(boxes)[:, None], corners(others)[None]
    inner = np.prod((np.minimum(one, other)[..., 2:] - np.maximum(one, other)[..., :2]).clip(0), axis=-1)
    outer = np.prod((np.maximum(one, other)[..., 2:] - np.minimum(one, other)[..., :2]).clip(0), axis=-1)
    areas = np.prod(boxes[:, None, 2:], -1) + np.prod(others[None, :, 2:], -1)
    union = areas - inner
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = inner / union
        return shared, shared - (outer - union) / outer

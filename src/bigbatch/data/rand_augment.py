"""RandAugment (Cubuk et al. 2020): a few of 14 changes of an image, drawn for each, all at one strength. By Pillow.

Strength 0 to 30 goes from nothing to: turned by 30 degrees, sheared by 0.3, shifted by 0.33 of a side, pixels above 0
inverted, 4 bits a channel; colour, contrast, brightness and sharpness from 1 to 0.1 or 1.9. Which changes, and in which
direction, is a function of (seed, epoch, sample). Differs from the paper in nothing but where the draws come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bigbatch.data.order import fractions_at
from bigbatch.data.pixels import pillow

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MOST = 30
FIRST = 16
"""Number of the first draw: two for each change, its kind and its direction."""


def _affine(picture: Picture, matrix: tuple[float, ...]) -> Picture:
    return picture.transform(picture.size, pillow().Transform.AFFINE, matrix, pillow().Resampling.BILINEAR)


def _enhanced(kind: str) -> Callable[[Picture, float], Picture]:
    def change(picture: Picture, strength: float) -> Picture:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(picture).enhance(1 + 0.9 * strength)

    return change


def _operated(kind: str) -> Callable[[Picture, float], Picture]:
    def change(picture: Picture, _strength: float) -> Picture:
        from PIL import ImageOps

        return getattr(ImageOps, kind)(picture)

    return change


def _solarised(picture: Picture, strength: float) -> Picture:
    from PIL import ImageOps

    return ImageOps.solarize(picture, round(256 * (1 - abs(strength))))


def _posterised(picture: Picture, strength: float) -> Picture:
    from PIL import ImageOps

    return ImageOps.posterize(picture, 8 - round(4 * abs(strength)))


CHANGES: tuple[tuple[str, Callable[[Picture, float], Picture]], ...] = (
    ("identity", lambda picture, _: picture),
    ("autocontrast", _operated("autocontrast")),
    ("equalize", _operated("equalize")),
    ("rotate", lambda picture, strength: picture.rotate(30 * strength, pillow().Resampling.BILINEAR)),
    ("solarize", _solarised),
    ("color", _enhanced("Color")),
    ("posterize", _posterised),
    ("contrast", _enhanced("Contrast")),
    ("brightness", _enhanced("Brightness")),
    ("sharpness", _enhanced("Sharpness")),
    ("shear_x", lambda picture, strength: _affine(picture, (1, 0.3 * strength, 0, 0, 1, 0))),
    ("shear_y", lambda picture, strength: _affine(picture, (1, 0, 0, 0.3 * strength, 1, 0))),
    (
        "translate_x",
        lambda picture, strength: _affine(picture, (1, 0, 0.33 * strength * picture.width, 0, 1, 0)),
    ),
    (
        "translate_y",
        lambda picture, strength: _affine(picture, (1, 0, 0, 0, 1, 0.33 * strength * picture.height)),
    ),
)
"""Name -> what becomes of a picture at a strength from -1 to 1."""


def rand_augmented(pixels: np.ndarray, states_B: np.ndarray, strength: float, changes: int) -> np.ndarray:
    """(B, H, W, C) uint8 pixels, changed.

    Args:
        pixels: (B, H, W, C) uint8.
        states_B: (B,) uint64, of each sample.
        strength: 0 to 30.
        changes: of each image, one behind the other.
    """
    found = pixels.copy()
    for row, state in enumerate(states_B):
        drawn = fractions_at(np.full(2 * changes, state), FIRST + np.arange(2 * changes))
        bare = pixels[row, ..., 0] if pixels.shape[3] == 1 else pixels[row]
        picture: Picture = pillow().fromarray(np.ascontiguousarray(bare))
        for kind, side in drawn.reshape(changes, 2):
            change = CHANGES[int(kind * len(CHANGES))][1]
            picture = change(picture, strength / MOST * (1.0 if side < 0.5 else -1.0))
        found[row] = np.asarray(picture).reshape(pixels.shape[1:])
    return found

"""An image with boxes drawn on it, as a page shows it. Pillow draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from bigbatch.data.boxes import corners
from bigbatch.data.pixels import pillow
from bigbatch.infer.scenes import Scene

SIDE = 288
"""Pixels of the longer side."""
RIGHT, GIVEN = (70, 220, 120), (255, 150, 40)
"""Colours of what is there, and of what the model finds."""


def scene_facts(scene: Scene, pixels: np.ndarray, names: Sequence[str], where: str) -> dict[str, object]:
    """What `evaluation.json` holds of an image.

    Args:
        scene: what is on it and what is found.
        pixels: (H, W, C) uint8.
        names: of the classes.
        where: the row.
    """
    return {
        "image": drawn(pixels, scene, names),
        "where": where,
        "place": scene.place,
        "things": [names[int(kind)] for kind in scene.things[:, 0]],
        "objects": [f"{names[int(row[0])]} {row[5]:.2f}" for row in scene.boxes],
        "found": scene.found,
        "missed": scene.missed,
        "besides": scene.besides,
    }


def drawn(pixels: np.ndarray, scene: Scene, names: Sequence[str]) -> str:
    """PNG in base64: things with a broad frame, boxes of the model with a narrow one and their class beside it.

    Args:
        pixels: (H, W, C) uint8.
        scene: of this image.
        names: of the classes.
    """
    from PIL import ImageDraw

    picture = pillow().fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = SIDE / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    pen, size = ImageDraw.Draw(picture), np.tile(picture.size, 2)
    for sides in corners(scene.things[:, 1:5]) * size:
        pen.rectangle(sides.tolist(), outline=RIGHT, width=3)
    for row, sides in zip(scene.boxes, (corners(scene.boxes[:, 1:5]) * size).clip(0, size), strict=True):
        left, top, right, bottom = sides.tolist()
        if right > left and bottom > top:
            pen.rectangle((left, top, right, bottom), outline=GIVEN, width=1)
        label = names[int(row[0])].encode("latin-1", "replace").decode("latin-1")
        pen.text((left + 3, max(top - 12, 0)), label[:24], fill=GIVEN)
    stream = io.BytesIO()
    picture.quantize(128).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()

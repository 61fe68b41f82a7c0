"""An image with its boxes as a sample: pixels in the model's size, boxes as fractions of the image.

Images are brought to height and width of the model whatever their own, and boxes with them.

Shapes: U units, n boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bigbatch.data.augment import IMAGE
from bigbatch.data.boxes import QUERY, has, units_of
from bigbatch.data.labels import LabelSet
from bigbatch.data.pixels import ImageForm
from bigbatch.errors import DataError
from bigbatch.files.boxes import BoxRow
from bigbatch.protocols import Row
from bigbatch.samples import Sample
from bigbatch.tasks.image import pixels_of

SIZE = "size"
"""A stream of one entry: its column `pixels` has the image's own width and height."""
_SLACK = 1.0
"""Pixels by which a box may reach out of its image: rounding."""


def boxed_sample(row: Row, form: ImageForm, labels: LabelSet | None, *, cut: bool, labelled: bool) -> Sample:
    """A row as a sample.

    Args:
        row: `image`; to learn from also `boxes` and `classes`.
        form: what the model takes.
        labels: the classes.
        cut: whether boxes are cut to their image instead of refused.
        labelled: whether boxes are read.

    Raises:
        DataError: an image that cannot be decoded; boxes that are not on it, or are not as many as their classes.
    """
    pixels, size = pixels_of(row["image"], form)
    known = labelled and row.get("boxes") is not None
    values = units_of(
        **_learnt(row, size, labels, cut=cut) if known else _NONE, queries=form.queries, size=size
    )
    given = has(values, QUERY)
    return Sample(
        streams={IMAGE: {"pixels": pixels[None]}, SIZE: {"pixels": np.array([size], np.float64)}},
        reads=np.where(given, np.arange(len(values)), 0).astype(np.int32),
        values=values,
        weights=np.full(len(values), 1.0 if known else 0.0, np.float32),
    )


_NONE = {
    "boxes": np.empty((0, 4)),
    "classes": np.empty(0),
    "areas": np.empty(0),
    "crowds": np.empty(0, bool),
}


def _learnt(row: Row, size: tuple[int, int], labels: LabelSet | None, *, cut: bool) -> dict[str, np.ndarray]:
    """What `units_of` takes of a row's boxes."""
    assert labels is not None
    boxes: Sequence[BoxRow] = row["boxes"]
    classes: Sequence[str] = row.get("classes") or []
    if len(boxes) != len(classes):
        raise DataError(f"boxes: {len(boxes):,} boxes, but {len(classes):,} classes; expected one for each")
    kept = [
        (found, labels.id_of(kind), each)
        for number, (each, kind) in enumerate(zip(boxes, classes, strict=True), start=1)
        if (found := _on_image(each, size, number, cut=cut)) is not None
    ]
    return {
        "boxes": np.array([found for found, _, _ in kept], np.float64).reshape(-1, 4),
        "classes": np.array([kind for _, kind, _ in kept], np.float64),
        "areas": np.array([each["area"] for _, _, each in kept], np.float64),
        "crowds": np.array([each["crowd"] for _, _, each in kept], bool),
    }


def _on_image(each: BoxRow, size: tuple[int, int], number: int, *, cut: bool) -> list[float] | None:
    """Centre, width and height as fractions; None: nothing of it is on the image.

    Raises:
        DataError: it reaches out of the image, or has no area, and is not cut.
    """
    wide, high = size
    said = f"boxes: box {number}" if each["name"] is None else f"boxes: box {number} ({each['name']})"
    frame = each.get("frame")
    if frame is not None and tuple(frame) != (wide, high):
        what = f"{said}: the image is {wide} x {high} pixels upright, but the file says {frame[0]:g} x {frame[1]:g}"
        turned = tuple(frame) == (high, wide)
        hint = (
            "; it is turned as its camera says: write size and boxes of the upright image" if turned else ""
        )
        raise DataError(f"{what}{hint or '; correct the size, or put the right image in its place'}")
    left, top, width, height = each["box"]
    right, bottom = left + width, top + height
    told = f"[{left:g}, {top:g}, {width:g}, {height:g}]"
    out = max(-left, -top, right - wide, bottom - high)
    if out > _SLACK and not cut:
        raise DataError(
            f"{said}: {told} reaches out of an image of {wide} x {high} pixels; correct it, or set task.outside: cut"
        )
    left, top = max(left, 0.0), max(top, 0.0)
    right, bottom = min(right, float(wide)), min(bottom, float(high))
    if right <= left or bottom <= top:
        if cut:
            return None
        raise DataError(
            f"{said}: {told} has no area; remove it, or set task.outside: cut to leave such boxes out"
        )
    return [
        (left + right) / 2 / wide,
        (top + bottom) / 2 / high,
        (right - left) / wide,
        (bottom - top) / high,
    ]

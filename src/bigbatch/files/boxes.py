"""Boxes as rows have them, in the form of COCO: `[left, top, width, height]` in pixels of the image as it is stored.

A value is a list of such boxes, of objects with one under `bbox` (and perhaps `area`, `iscrowd`, `id`), an array
(boxes, 4), or any of these as JSON. An image on which there is nothing has the list [].
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import pyarrow as pa

from bigbatch.files.plain import is_missing, plain, text_of

KIND = pa.list_(
    pa.struct([
        ("box", pa.list_(pa.float64(), 4)),
        ("area", pa.float64()),
        ("crowd", pa.bool_()),
        ("frame", pa.list_(pa.float64(), 2)),
        ("name", pa.large_string()),
    ])
)  # fmt: skip
"""Type of a column of boxes."""
_FORM = "[left, top, width, height]"
_MOST = 2.0**31


class BoxRow(TypedDict):
    """One box: `KIND` in Python."""

    box: list[float]
    """Left, top, width, height, in pixels."""
    area: float
    """Of the thing inside, square pixels: by it figures of small and large things are told apart."""
    crowd: bool
    """Whether it surrounds many things at once: never learnt, and what is found in it is neither right nor wrong."""
    frame: list[float] | None
    """Width and height of the image, as the file has them."""
    name: str | None
    """What messages call it."""


def boxes_of(value: object) -> list[BoxRow] | None:
    """Boxes in one form; None when missing.

    Raises:
        ValueError: it is no list of boxes, or one of them is none.
    """
    value = plain(value)
    if isinstance(value, (str, bytes)):
        value = _parsed(text_of(value) or "")
    if is_missing(value):
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()  # type: ignore[union-attr]  # an array
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of {_FORM}, found {type(value).__name__}")
    return [_box(plain(each), number) for number, each in enumerate(value, start=1)]


def holds_boxes(values: Sequence[object]) -> bool:
    """Whether the values of a column are boxes, and some are there."""
    try:
        return any([boxes_of(value) for value in values])
    except ValueError:
        return False


def _parsed(text: str) -> object:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"expected boxes as JSON, a list of {_FORM}; found {text[:40]!r}") from None


def _box(value: object, number: int) -> BoxRow:
    about: Mapping[str, object] = value if isinstance(value, Mapping) else {}
    name = about.get("id", about.get("name"))
    said = f"box {number}" if name is None else f"box {number} ({name})"
    inside = about.get("bbox", about.get("box")) if about else value
    inside = inside.tolist() if hasattr(inside, "tolist") else inside  # type: ignore[union-attr]
    if not isinstance(inside, (list, tuple)) or len(inside) != 4:
        raise ValueError(f"{said}: expected {_FORM}, found {inside!r:.60}")
    numbers = [_number(each, said) for each in inside]
    area = about.get("area")
    if is_missing(area):
        area = numbers[2] * numbers[3]
    crowd = about.get("iscrowd", about.get("crowd", 0))
    if crowd not in (0, 1, None):
        raise ValueError(f"{said}: iscrowd: found {crowd!r:.40}; expected 0 or 1")
    frame = about.get("frame")
    if not (isinstance(frame, list) and len(frame) == 2):
        frame = None
    return {
        "box": numbers,
        "area": _number(area, f"{said}: area"),
        "crowd": bool(crowd),
        "frame": frame,
        "name": None if name is None else str(name),
    }


def _number(value: object, said: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{said}: found {value!r:.40}; expected a finite number of pixels")
    if abs(value) > _MOST:
        raise ValueError(f"{said}: found {value:g}; no image is as large")
    return float(value)

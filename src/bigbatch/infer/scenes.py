"""Images with what is on them and what a model finds there, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigbatch.data.boxes import BOX, CLASS, LEARNT, QUERY, has, pairwise
from bigbatch.samples import Predictions, Table

OVERLAP = 0.5
"""Intersection over union from which a box of the right class has found a thing."""
SHOWN = {"worst": 8, "typical": 4, "best": 4}
"""Images of each place in the order of how much is wrong on them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """An image."""

    row: int
    things: np.ndarray
    """(n, 5) class id, centre, width, height."""
    boxes: np.ndarray
    """(m, 6) the same of what the model finds, and how sure it is; the surest first."""
    found: int
    """Things that a box of their class lies on."""
    place: str
    """`worst`, `typical` or `best`."""

    @property
    def missed(self) -> int:
        """Things that none lies on."""
        return len(self.things) - self.found

    @property
    def besides(self) -> int:
        """Boxes that lie on no thing of their class."""
        return len(self.boxes) - self.found


def scenes_of(predictions: Predictions, table: Table, threshold: float) -> tuple[Scene, ...]:
    """The images of a split on which most is wrong, some around the median, and of those on which all is right the
    fullest.

    Args:
        predictions: of all its units, as `task: detect` decodes them.
        table: the split.
        threshold: boxes below it are not looked at.
    """
    values, given = np.asarray(table.values, np.float64), predictions.values
    counts_U, offsets = np.asarray(table.weights) > 0, np.asarray(table.unit_offsets)
    scenes = []
    for row in range(len(table)):
        own = slice(int(offsets[row]), int(offsets[row + 1]))
        if not counts_U[own].any():
            continue
        there, said = values[own], given[own]
        things = there[has(there, LEARNT)][:, [CLASS, *range(BOX.start, BOX.stop)]]
        boxes = said[has(there, QUERY) & (said[:, 5] >= threshold) & np.isfinite(said).all(1)]
        boxes = boxes[np.argsort(-boxes[:, 5], kind="stable")]
        scenes.append(Scene(row=row, things=things, boxes=boxes, found=_found(things, boxes), place=""))
    scenes.sort(key=lambda scene: (-(scene.missed + scene.besides), -scene.found, scene.row))
    return _picked(scenes)


def _found(things: np.ndarray, boxes: np.ndarray) -> int:
    """Things that a box of their class lies on, each box on one thing, the surest first."""
    if not len(things) or not len(boxes):
        return 0
    shared = pairwise(boxes[:, 1:5], things[:, 1:5])[0]
    shared[boxes[:, :1] != things[None, :, 0]] = 0
    free = np.ones(len(things), bool)
    for each in shared:
        best = int(np.argmax(np.where(free, each, 0)))
        if free[best] and each[best] >= OVERLAP:
            free[best] = False
    return int((~free).sum())


def _picked(scenes: list[Scene]) -> tuple[Scene, ...]:
    count = len(scenes)
    middle = max(0, count // 2 - SHOWN["typical"] // 2)
    wanted = {
        "worst": range(min(SHOWN["worst"], count)),
        "typical": range(middle, min(middle + SHOWN["typical"], count)),
        "best": range(max(0, count - SHOWN["best"]), count),
    }
    places: dict[int, str] = {}
    for place, numbers in wanted.items():
        for number in numbers:
            places.setdefault(number, place)
    return tuple(
        Scene(row=one.row, things=one.things, boxes=one.boxes, found=one.found, place=places[number])
        for number, one in enumerate(scenes)
        if number in places
    )

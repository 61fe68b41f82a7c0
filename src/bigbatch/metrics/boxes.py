"""Figures of detection, as COCO counts them (Lin et al. 2014), by faster-coco-eval.

    map = mean over classes and over IoU .50, .55, …, .95 of the average precision of at most 100 boxes an image

The library counts; here boxes are only brought to its form, all images of a split at once, so no cut can change a
figure. Boxes are compared in pixels of the image, and crowds are neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bigbatch.data.boxes import AREA, BOX, CLASS, CROWD, HEIGHT, LEARNT, QUERY, WIDTH, corners, has, images_of
from bigbatch.errors import ModelError
from bigbatch.metrics.figures import Undefined
from bigbatch.samples import Predictions, Targets

MISSING = (
    "figures of boxes (map, map_50, …) need faster-coco-eval, which is not installed: pip install 'bigbatch[detect]' "
    "(or: pip install faster-coco-eval)"
)
FIGURES: Mapping[str, int] = {
    "map": 0, "map_50": 1, "map_75": 2, "map_small": 3, "map_medium": 4, "map_large": 5,
    "mar_1": 6, "mar_10": 7, "mar_100": 8,
}  # fmt: skip
"""Name, as torchmetrics has it -> its place in COCO's summary. Small: under 32 x 32 pixels; large: from 96 x 96."""
USUAL = ("map", "map_50", "map_75", "mar_100")
MOST_BOXES = 100
"""Of an image, the surest ones."""
State = tuple[tuple[np.ndarray, np.ndarray, int], ...]
"""Per chunk: things (n, 8) and boxes (m, 7) as `_things` and `_found` have them, and images."""


@dataclass(frozen=True, kw_only=True)
class BoxMetric:
    """Figures of a split; the state is its boxes."""

    name: str
    reported: tuple[str, ...]
    """Names of the figures that it gives."""
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> State:
        """Boxes of these units, which are those of whole images.

        Args:
            predictions: `values` (U, 6): class, centre, width and height as fractions, and how sure.
            targets: values (U, 9) of `data.boxes`.
        """
        values = np.asarray(targets.values, np.float64)
        counts_U = np.asarray(targets.weights) > 0
        images_U = images_of(values)
        number = int(images_U[-1]) + 1 if len(images_U) else 0
        return (
            (_things(values, images_U, counts_U), _found(predictions, values, images_U, counts_U), number),
        )

    def merge(self, left: State, right: State) -> State:
        """Both, in this order."""
        return left + right

    def value(self, state: State) -> Mapping[str, float]:
        """The figures.

        Raises:
            ModelError: the library is not installed.
        """
        firsts = np.cumsum([0, *(images for *_, images in state)])
        chunks = list(zip(state, firsts[:-1].tolist(), strict=True))
        things = np.concatenate([_from(own, first) for (own, _, _), first in chunks])
        found = np.concatenate([_from(own, first) for (_, own, _), first in chunks])
        if not len(things):
            return dict.fromkeys(self.reported, Undefined("no image shows anything"))
        stats = coco_stats(things, found, int(firsts[-1]))
        # The library's -1: there is none of these.
        return {
            name: stats[FIGURES[name]]
            if stats[FIGURES[name]] >= 0
            else Undefined("there is no thing of this size")
            for name in self.reported
        }


def box_metrics() -> dict[str, BoxMetric]:
    """Every figure by name."""
    return {name: BoxMetric(name=name, reported=(name,)) for name in FIGURES}


def usual_boxes() -> BoxMetric:
    """The usual figures, counted once."""
    return BoxMetric(name="map", reported=USUAL)


def _from(rows: np.ndarray, first: int) -> np.ndarray:
    """Rows with their images numbered from `first`."""
    return np.concatenate([rows[:, :1] + first, rows[:, 1:]], axis=1)


def _pixels(boxes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n, 4) left, top, width, height."""
    scale = values[:, [WIDTH, HEIGHT]]
    sides = corners(boxes) * np.concatenate([scale, scale], axis=1)
    return np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1)


def _things(values: np.ndarray, images_U: np.ndarray, counts_U: np.ndarray) -> np.ndarray:
    """(n, 8): image, left, top, width, height, class, area, crowd."""
    kept = (has(values, LEARNT) | has(values, CROWD)) & counts_U
    values, images = values[kept], images_U[kept]
    rest = [values[:, CLASS], values[:, AREA], has(values, CROWD).astype(float)]
    return np.column_stack([images, _pixels(values[:, BOX], values), *rest])


def _found(
    predictions: Predictions, values: np.ndarray, images_U: np.ndarray, counts_U: np.ndarray
) -> np.ndarray:
    """(m, 7): image, left, top, width, height, how sure, class."""
    given = np.asarray(predictions.values, np.float64)
    kept = has(values, QUERY) & counts_U & np.isfinite(given).all(1)
    given, values, images = given[kept], values[kept], images_U[kept]
    return np.column_stack([images, _pixels(given[:, 1:5], values), given[:, 5], given[:, 0]])


def coco_stats(things: np.ndarray, found: np.ndarray, images: int) -> Sequence[float]:
    """COCO's summary of 12 figures, -1 for what does not exist.

    Args:
        things: (n, 8) of `_things`.
        found: (m, 7): image, left, top, width, height, how sure, class.
        images: how many there are, numbered from 0.

    Raises:
        ModelError: the library is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise ModelError(MISSING) from None
    classes = sorted({int(kind) for kind in things[:, 5]})
    known = np.isin(found[:, 6], classes)  # others have no average precision
    about = {
        "images": [{"id": image + 1} for image in range(images)],
        "categories": [{"id": kind + 1, "name": str(kind)} for kind in classes],
        "annotations": [
            {
                "id": number,
                "image_id": int(row[0]) + 1,
                "category_id": int(row[5]) + 1,
                "bbox": row[1:5].tolist(),
                "area": float(row[6]),
                "iscrowd": int(row[7]),
            }
            for number, row in enumerate(things, start=1)
        ],
    }
    boxes = [
        {
            "image_id": int(row[0]) + 1,
            "category_id": int(row[6]) + 1,
            "bbox": row[1:5].tolist(),
            "score": float(row[5]),
        }
        for row in found[known]
    ]
    if not boxes:
        return [0.0 if len(things) else -1.0] * 12
    right = COCO(about)
    counted = COCOeval_faster(right, right.loadRes(boxes), iouType="bbox", print_function=_silent)
    counted.evaluate()
    counted.accumulate()
    counted.summarize()
    return [float(stat) for stat in counted.stats[:12]]


def _silent(*_said: object) -> None:
    pass

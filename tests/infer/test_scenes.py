"""Images for people: which things count as found, and which images are shown."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from bigbatch.data.boxes import units_of
from bigbatch.infer.scenes import scenes_of
from bigbatch.report.scenes import scenes_view
from bigbatch.run.drawn import scene_facts
from bigbatch.samples import Predictions, Stream, Table, offsets_of

QUERIES = 3
BOX, FAR = [0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]


def split(scenes):
    """(things, boxes) of each image: (class, box) and (class, box, how sure)."""
    values, told = [], []
    for things, boxes in scenes:
        values.append(
            units_of(
                boxes=np.array([box for _, box in things]).reshape(-1, 4),
                classes=np.array([kind for kind, _ in things], float),
                areas=np.ones(len(things)),
                crowds=np.zeros(len(things), bool),
                queries=QUERIES,
                size=(10, 10),
            )
        )
        rows = np.zeros((len(values[-1]), 6))
        rows[: len(boxes)] = [[kind, *box, sure] for kind, box, sure in boxes] or np.empty((0, 6))
        told.append(rows)
    units = {"at": np.zeros(sum(map(len, values)), np.int32), "values": np.concatenate(values)}
    units["weights"] = np.ones(len(units["at"]), np.float32)
    table = Table(streams={"units": Stream(columns=units, offsets=offsets_of(np.array([*map(len, values)])))})
    every = np.concatenate(told)
    return Predictions(kind="boxes", scores=every, probabilities=None, values=every), table


def test_what_counts_as_found():
    near = [0.52, 0.5, 0.4, 0.4]
    cases = [
        ([(1, BOX)], [(1, near, 0.9)], (1, 0, 0)),
        ([(1, BOX)], [(0, near, 0.9)], (0, 1, 1)),  # another class
        ([(1, BOX)], [(1, near, 0.9), (1, BOX, 0.8)], (1, 0, 1)),  # twice the same
        ([(1, BOX)], [(1, FAR, 0.9)], (0, 1, 1)),
        ([(1, BOX)], [(1, near, 0.2)], (0, 1, 0)),  # not sure enough
        ([], [], (0, 0, 0)),
    ]  # fmt: skip
    scenes = scenes_of(*split([(things, boxes) for things, boxes, _ in cases]), threshold=0.3)
    found = {scene.row: (scene.found, scene.missed, scene.besides) for scene in scenes}
    assert found == {row: figures for row, (*_, figures) in enumerate(cases)}
    assert scenes[0].row in (1, 3) and scenes[0].place == "worst"


def test_the_page_shows_them_and_nothing_else():
    (scene,) = scenes_of(*split([([(1, BOX)], [(1, BOX, 0.9)])]), threshold=0.3)
    facts = scene_facts(scene, np.full((20, 20, 1), 9, np.uint8), ("a", "<b>\x1b"), "x.json/1")
    picture = Image.open(io.BytesIO(base64.b64decode(str(facts["image"])))).convert("RGB")
    assert picture.size == (288, 288)
    assert (70, 220, 120) in set(picture.get_flattened_data())
    view: Any = scenes_view({"validation": {"scenes": [facts, {"image": "<script>", "place": "best"}, 7]}})
    ((words, (shown,)), (_, (other,))) = view["scenes"]
    assert words == "Most is wrong" and shown["found"] == 1 and "\x1b" not in shown["things"]
    assert other["image"] == "" and other["things"] == "nothing"
    assert scenes_view({"validation": {"scenes": "x"}}) == {"scenes": [], "scenes_split": ""}

"""Detection end to end: a file of COCO in, COCO's results out; the same bits after a resume; errors before step 0."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForObjectDetection
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

import bigbatch
from bigbatch.cli.app import main
from bigbatch.errors import DataError, ModelError
from tests.detections import AUGMENT, NAMES, SIZE, box_rows, tiny_detector, write_coco
from tests.jobs import differing, exhaust, lines, start, weights

pytest.importorskip("faster_coco_eval")

TASK = {"name": "detect", "augment": AUGMENT, "threshold": 0.0}
KEYS = {"task": TASK, "updates": 7, "batch": 20, "plan.micro_tokens": 115, "plan.threads": 1}
ROWS, HELD_OUT = box_rows(45), box_rows(20, 1)


def run_in(folder, **keys):
    task = {**TASK, "labels": list(NAMES)}
    settings = {**KEYS, "task": task, **keys}
    return start(folder, tiny_detector(dropout=0.1), rows=ROWS, validation=HELD_OUT, set=settings)


def test_a_resumed_run_gives_the_same_bits(tmp_path):
    whole = exhaust(run_in(tmp_path / "whole"))
    with run_in(tmp_path / "stopped") as run:
        for record in run:
            if record.kind == "update" and record.step == 3:
                run.save()
            if record.kind == "update" and record.step == 5:
                break
    assert run.status == "interrupted"
    resumed = exhaust(run_in(tmp_path / "stopped"))
    found, expected = lines(tmp_path / "stopped", "update"), lines(tmp_path / "whole", "update")
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]
    assert all(set(line) >= {"loss.label", "loss.box", "loss.giou"} for line in found)
    assert differing(weights(whole), weights(resumed)) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run from a file of COCO."""
    folder = tmp_path_factory.mktemp("boxes")
    files = {name: write_coco(folder, rows, name) for name, rows in (("train", ROWS), ("val", HELD_OUT))}
    tiny_detector(id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={}).save_pretrained(folder / "model")
    exhaust(
        bigbatch.start(
            str(folder / "model"),
            str(files["train"]),
            str(files["val"]),
            set={**KEYS, "updates": 30, "optimizer.lr": 3e-3},
            run_dir=folder / "run",
        )
    )
    return folder


def test_figures_are_recorded_and_classes_are_in_the_order_of_their_categories(trained):
    (final,) = [json.loads((trained / "run" / "result.json").read_text())["final"]["validation"]]
    assert {"loss", "map", "map_50", "map_75", "mar_100"} <= set(final)
    config = json.loads((trained / "run" / "model" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(NAMES)
    assert bigbatch.evaluate(trained / "run", trained / "val.json")["map_50"] == pytest.approx(
        final["map_50"]
    )


def test_transformers_finds_the_same_boxes(trained):
    processor = YolosImageProcessorPil.from_pretrained(trained / "run" / "model")
    model = AutoModelForObjectDetection.from_pretrained(trained / "run" / "model").eval()
    files = sorted((trained / "val").glob("*.png"))[:5]
    pictures = [Image.open(file).convert("RGB").resize((20, 12)) for file in files]
    with torch.no_grad():
        outputs = model(**processor(pictures, return_tensors="pt"))
    expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(12, 20)] * 5)
    found = list(bigbatch.predict(trained / "run", [{"image": picture} for picture in pictures]))
    for mine, theirs in zip(found, expected, strict=True):
        order = np.argsort(-theirs["scores"].numpy(), kind="stable")
        sides = theirs["boxes"].numpy()[order].clip(0, [20, 12, 20, 12])
        boxes = np.array([each["box"] for each in mine["objects"]])
        assert np.abs(boxes[:, :2] - sides[:, :2]).max() < 1e-3
        assert np.abs(boxes[:, 2:] - (sides[:, 2:] - sides[:, :2])).max() < 1e-3
        assert [each["label"] for each in mine["objects"]] == [NAMES[k] for k in theirs["labels"][order]]


def test_a_file_of_results_is_what_coco_reads(trained):
    out = trained / "results.json"
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(trained / "run"), str(trained / "val.json"), "--out", str(out)])
    assert ended.value.code == 0
    results = json.loads(out.read_text())
    assert {found["category_id"] for found in results} <= {10, 20, 30}
    assert {found["image_id"] for found in results} == set(range(1, 21))
    assert all(set(found) == {"image_id", "category_id", "bbox", "score"} for found in results)


# ---------------------------------------------------------------- what is refused


def refused(folder, kind=DataError, task=TASK, **changed):
    """What is said of a file whose keys are changed."""
    folder.mkdir(exist_ok=True)
    file = write_coco(folder, ROWS[:12], **changed)
    with pytest.raises(kind) as caught:
        bigbatch.start(
            tiny_detector(),
            str(file),
            str(file),
            set={**KEYS, "task": task, "batch": 5},
            run_dir=folder / "run",
        )
    assert not (folder / "run").exists()
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


def one(**changed):
    """An annotation of the second image."""
    about = {"id": 1, "image_id": 2, "category_id": 10, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    return {**about, **changed}


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ([one(bbox=[1, 1, 0, 4])], "train.json/2: boxes: box 1 (annotation 1): [1, 1, 0, 4] has no area"),
        ([one(bbox=[10, 2, 9, 4])], "reaches out of an image of 16 x 16 pixels; correct it, or set task.outside: cut"),
        ([one(bbox=[1, 1, 4])], "annotations[0]: the box (annotation 1): expected [left, top, width, height]"),
        ([one(bbox=[1, 1, float("nan"), 4])], "found nan; expected a finite number of pixels"),
        ([one(bbox=[1, 1, 1e300, 4])], "no image is as large"),
        ([one(category_id=7)], "category_id 7: there is no such category; there are: 10 (cat), 20 (dog), 30 (cup)"),
        ([one(image_id=99)], "annotations[0]: image_id 99: there is no such image"),
        ([one(), one()], "id 1 occurs 2 times"),
        ([{"id": 1}], "annotations[0]: has no image_id, category_id, bbox"),
        (["cat"], "annotations[0]: expected an object, found str"),
        ([one(iscrowd=2)], "iscrowd: found 2; expected 0 or 1"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_learnt(tmp_path, annotations, words):
    assert words in refused(tmp_path / "a", annotations=annotations)


def test_images_and_categories_that_are_wrong(tmp_path):
    size = {"width": SIZE, "height": SIZE}
    absent = [{"id": 2, "file_name": "train/none.png", **size}]
    assert "no such file" in refused(tmp_path / "a", images=absent, annotations=[one()])
    twice = [{"id": 2, "file_name": "train/001.png", **size}] * 2
    assert "images[1]: id 2 occurs twice" in refused(tmp_path / "b", images=twice, annotations=[one()])
    away = [{"id": 2, "file_name": "../../etc/passwd", **size}]
    assert "lies outside" in refused(tmp_path / "c", images=away, annotations=[one()])
    other = [{"id": 2, "file_name": "train/001.png", "width": 32, "height": SIZE}]
    said = refused(tmp_path / "d", images=other, annotations=[one()])
    assert "the image is 16 x 16 pixels upright, but the file says 32 x 16" in said
    alike = [{"id": 10, "name": "cat"}, {"id": 20, "name": "cat"}]
    assert "two categories are called 'cat'" in refused(tmp_path / "e", categories=alike, annotations=[one()])
    assert "no box has a label" in refused(tmp_path / "f", annotations=[])


def test_what_is_cut_instead(tmp_path):
    """Of a box that reaches out what is on the image; nothing of one that is elsewhere; crowds and masks as runs."""
    runs = {"segmentation": {"counts": "abc", "size": [16, 16]}}
    found = [
        one(bbox=[10, 2, 100, 4]),
        one(id=2, bbox=[50, 50, 4, 4]),
        one(id=3, bbox=[0, 0, 16, 16], iscrowd=1, **runs),
    ]
    file = write_coco(tmp_path, ROWS[:12], annotations=found)
    run = bigbatch.start(
        tiny_detector(),
        str(file),
        str(file),
        set={**KEYS, "task": {**TASK, "outside": "cut"}, "batch": 5, "updates": 2},
        run_dir=tmp_path / "run",
    )
    exhaust(run)
    assert bigbatch.read(tmp_path / "run").updates["loss"].to_pylist()[0] > 0


def test_a_model_that_gives_no_boxes(tmp_path):
    from tests.pictures import tiny_vision

    file = write_coco(tmp_path, ROWS[:12])
    with pytest.raises(ModelError, match="AutoModelForObjectDetection"):
        bigbatch.start(tiny_vision(), str(file), set={**KEYS, "batch": 5}, run_dir=tmp_path / "run")

"""Images end to end: the same bits after a resume, errors before step 0, a folder that transformers opens."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import bigbatch
from bigbatch.errors import DataError, ModelError
from tests.jobs import differing, exhaust, lines, start, weights
from tests.pictures import AUGMENT, NAMES, image_rows, tiny_vision

TASK = {"name": "image", "labels": list(NAMES), "augment": AUGMENT}
KEYS = {"task": TASK, "updates": 9, "batch": 20, "plan.micro_tokens": 85, "plan.threads": 1}
ROWS, HELD_OUT = image_rows(50), image_rows(20, 1)


def run_in(folder, **keys):
    return start(folder, tiny_vision(dropout=0.1), rows=ROWS, validation=HELD_OUT, set={**KEYS, **keys})


def test_a_resumed_run_gives_the_same_bits(tmp_path):
    """Batches of 20 cross the ends of epochs of 50 rows; each image is changed as its epoch says, before and after."""
    whole = exhaust(run_in(tmp_path / "whole"))
    with run_in(tmp_path / "stopped") as run:
        for record in run:
            if record.kind == "update" and record.step == 4:
                run.save()
            if record.kind == "update" and record.step == 6:
                break
    assert run.status == "interrupted"
    resumed = exhaust(run_in(tmp_path / "stopped"))
    assert [line["loss"] for line in lines(tmp_path / "whole", "update")] == [
        line["loss"] for line in lines(tmp_path / "stopped", "update")
    ]
    assert differing(weights(whole), weights(resumed)) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run from a folder of images, whose model's folder has a mean and a deviation of its own."""
    folder = tmp_path_factory.mktemp("images")
    for number, row in enumerate(image_rows(60)):
        place = folder / "photos" / row["label"] / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row["image"]).resize((20, 18)).save(place)
    model = tiny_vision(id2label={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    model.save_pretrained(folder / "model")
    about = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "resample": 3,
        "size": {"height": 16, "width": 16},
    }
    (folder / "model" / "preprocessor_config.json").write_text(json.dumps(about))
    keys = {**KEYS, "task": {"name": "image", "augment": AUGMENT}, "updates": 4, "optimizer.lr": 1e-2}
    exhaust(
        bigbatch.start(str(folder / "model"), str(folder / "photos"), 0.2, set=keys, run_dir=folder / "run")
    )
    return folder


def test_transformers_gives_the_same_logits(trained):
    processor = ViTImageProcessorPil.from_pretrained(trained / "run" / "model")
    model = AutoModelForImageClassification.from_pretrained(trained / "run" / "model").eval()
    files = sorted((trained / "photos").rglob("*.png"))[::6]
    with torch.no_grad():
        inputs = processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1).numpy()
    found = list(bigbatch.predict(trained / "run", [{"image": str(file)} for file in files]))
    shares = np.array([[row["probabilities"][name] for name in NAMES] for row in found])
    assert np.abs(shares - expected).max() < 2e-6
    assert [row["label"] for row in found] == [NAMES[best] for best in expected.argmax(1)]


def test_files_folders_and_objects_are_predicted_alike(trained):
    file = sorted((trained / "photos" / "a").iterdir())[0]
    (of_path,) = bigbatch.predict(trained / "run", [str(file)])
    (of_pixels,) = bigbatch.predict(trained / "run", [{"image": np.asarray(Image.open(file))}])
    assert of_path == of_pixels
    figures = bigbatch.evaluate(trained / "run", trained / "photos")
    assert figures["samples"] == 60


def test_the_plan_says_that_there_is_nothing_to_pack(trained):
    plan = json.loads((trained / "run" / "plan.json").read_text())
    assert plan["packing"]["value"] == "padded"
    assert "every sample is as long as any other" in plan["packing"]["reason"]
    card = (trained / "run" / "model" / "README.md").read_text()
    assert "images of 16 x 16 pixels, 17 positions each" in card
    assert "AutoImageProcessor" in card


def test_a_broken_image_ends_a_run_before_its_first_update(trained, tmp_path):
    for name, content in (
        ("a/1.png", b""),
        ("b/2.png", (trained / "photos" / "b").glob("*").__next__().read_bytes()[:50]),
    ):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        exhaust(
            bigbatch.start(
                str(trained / "model"),
                str(tmp_path / "photos"),
                set={**KEYS, "task": "image"},
                run_dir=tmp_path / "run",
            )
        )
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert "photos/a/1.png" in said
    assert "empty" in said


def test_models_that_normalise_over_the_batch_are_refused(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3, image_size=16)
    with pytest.raises(ModelError, match="normalises over the batch"):
        exhaust(start(tmp_path / "run", ResNetForImageClassification(config), rows=ROWS, set=KEYS))


def test_the_report_shows_the_images_that_are_wrong(tmp_path):
    wrong = exhaust(run_in(tmp_path / "run", **{"updates": 1, "optimizer.lr": 1e-9}))
    found = json.loads((wrong.path / "evaluation.json").read_text())["validation"]["examples"]
    assert found
    row = int(found[0]["where"].rpartition(" ")[2].rpartition(":")[2]) - 1
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0]["image"]))))
    assert np.array_equal(shown, HELD_OUT[row]["image"])
    page = (wrong.path / "report.html").read_text()
    assert f'src="data:image/png;base64,{found[0]["image"]}"' in page

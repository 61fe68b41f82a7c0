"""Composes scenes of clothes with a box around each, from Fashion-MNIST, into data/: PNG files and COCO JSON; and a
small YOLOS of random weights.

Fashion-MNIST (Xiao et al. 2017) is a Debian package of 31 MB, which is fetched once; nothing of it is installed or run.
A scene is 56 x 56 grey pixels, dark with noise; on it lie 1 to 3 photographs of 20 to 28 pixels that hardly cover one
another. Training scenes are made of the 60,000 training photographs, the others of the 10,000 test photographs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import YolosConfig, YolosForObjectDetection

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PACKAGE = "dataset-fashion-mnist"
INSIDE = "usr/share/datasets/fashion-mnist"
NAMES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SIDE, PATCH = 56, 8
"""Of a scene, and of what the model reads as one position, pixels."""
MOST = 3
"""Things on a scene."""
COVERED = 0.1
"""Of the smaller of two boxes, at most so much lies in the other one."""


def main() -> None:
    """Write train.json, validation.json and test.json, each beside a folder of its images."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--train", type=int, default=20000, help="scenes to train on")
    asked.add_argument("--held-out", type=int, default=1000, help="scenes to validate with, and to test with")
    sizes = asked.parse_args()
    fetch()
    for name, split, count, seed in (
        ("train", "train", sizes.train, 1),
        ("validation", "t10k", sizes.held_out, 2),
        ("test", "t10k", sizes.held_out, 3),
    ):
        photos, labels = arrays(split)
        half = (
            slice(None) if name == "train" else slice(0, 5000) if name == "validation" else slice(5000, None)
        )
        write(name, photos[half], labels[half], count, np.random.default_rng(seed))
        print(f"data/{name}.json: {count:,} scenes")
    write_model()
    print("data/model: a YOLOS of random weights")


def write_model() -> None:
    """A small YOLOS. transformers begins with zeros for positions, and for what boxes are read from: nothing tells
    patches apart, and boxes are all the same. Here positions begin as sines of their row and column.
    """
    torch.manual_seed(0)
    patches, width = SIDE // PATCH, 96
    config = YolosConfig(
        image_size=[SIDE, SIDE],
        patch_size=PATCH,
        num_channels=1,
        hidden_size=width,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        num_detection_tokens=8,
        use_mid_position_embeddings=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        num_labels=len(NAMES),
    )
    model = YolosForObjectDetection(config)
    places = torch.stack(torch.meshgrid(*[torch.arange(patches) * 4 / patches] * 2, indexing="ij"), -1)
    waves = math.pi * 50.0 ** (-torch.arange(width // 4) / (width // 4))
    angles = (places.reshape(-1, 2, 1) * waves).flatten(1)
    with torch.no_grad():
        table = model.vit.embeddings.position_embeddings[0]
        table[1 : 1 + patches**2] = torch.cat([angles.sin(), angles.cos()], 1) / 2
        torch.nn.init.normal_(table[1 + patches**2 :])
    model.save_pretrained(DATA / "model")
    form = {
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.2],
        "image_std": [0.25],
        "do_pad": False,
    }
    about = {"image_processor_type": "YolosImageProcessor", "resample": 2, "rescale_factor": 1 / 255, **form}
    (DATA / "model" / "preprocessor_config.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def write(name: str, photos: np.ndarray, labels: np.ndarray, count: int, random: np.random.Generator) -> None:
    """Compose the scenes of a split.

    Args:
        name: of the split.
        photos: (n, 28, 28) uint8.
        labels: (n,) classes.
        count: scenes.
        random: what is drawn from.
    """
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        scene = random.integers(0, 50, (SIDE, SIDE)).astype(np.uint8)
        images.append({"id": number, "file_name": f"{name}/{number:05}.png", "width": SIDE, "height": SIDE})
        boxes: list[tuple[int, int, int, int]] = []
        for _ in range(int(random.integers(1, MOST + 1))):
            at, photo = free_place(boxes, photos, random)
            if at is None:
                continue
            left, top, width, height = at
            which, pixels = photo
            under = scene[top : top + height, left : left + width]
            under[:] = np.maximum(under, pixels)
            boxes.append(at)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(labels[which]) + 1,
                    "bbox": list(at),
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(scene).save(folder / f"{number:05}.png")
    categories = [{"id": number, "name": each} for number, each in enumerate(NAMES, start=1)]
    about = {"images": images, "annotations": annotations, "categories": categories}
    (DATA / f"{name}.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def free_place(
    boxes: list[tuple[int, int, int, int]], photos: np.ndarray, random: np.random.Generator
) -> tuple[tuple[int, int, int, int] | None, tuple[int, np.ndarray]]:
    """A photograph, cut to what it shows and scaled, and where it hardly covers others; None after 20 trials."""
    which = int(random.integers(len(photos)))
    photo = photos[which]
    rows, columns = (np.flatnonzero((photo > 25).any(axis)) for axis in (1, 0))
    inside = Image.fromarray(photo[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = random.integers(20, 29) / max(inside.size)
    width, height = (max(3, round(side * scale)) for side in inside.size)
    pixels = np.asarray(inside.resize((width, height), Image.Resampling.BILINEAR))
    for _ in range(20):
        left, top = int(random.integers(SIDE - width + 1)), int(random.integers(SIDE - height + 1))
        if all(shared((left, top, width, height), other) <= COVERED for other in boxes):
            return (left, top, width, height), (which, pixels)
    return None, (which, pixels)


def shared(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Of the smaller of two boxes, how much lies in the other one."""
    sides = [
        min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis])
        for axis in (0, 1)
    ]
    return max(sides[0], 0) * max(sides[1], 0) / min(one[2] * one[3], other[2] * other[3])


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Photographs (n, 28, 28) and classes (n,)."""
    photos, labels = (
        np.frombuffer(
            gzip.decompress((DATA / f"{split}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset
        )
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return photos.reshape(-1, 28, 28), labels


def fetch() -> None:
    """The four files of the package, beside this file."""
    wanted = [
        f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    if all((DATA / name).is_file() for name in wanted):
        return
    installed = Path("/") / INSIDE
    folder = DATA / "download"
    if not installed.is_dir():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            sys.exit(f"this takes the Debian package {PACKAGE}: run it where apt-get and dpkg-deb are")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True)
        package = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    DATA.mkdir(exist_ok=True)
    for name in wanted:
        shutil.copyfile((installed if installed.is_dir() else folder / INSIDE) / name, DATA / name)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""Images for tests: rows with a class that can be seen, tiny models that look at them, and the oracle's updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from bigbatch.build.parts import Parts
from bigbatch.data.augment import STREAM
from tests.reference import mixed_with, partner_of, picture
from tests.split import Trajectory, by_oracle, parts_of

NAMES = ("a", "b", "c")
SIZE = 16
AUGMENT = {"flip": 0.5, "crop": 3, "erase": 0.5}
_SMALL = {
    "image_size": SIZE,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.05,
    "drop_path_rate": 0.0,
}
MIXED = {"flip": 0.5, "crop": 3, "mixup": 0.4, "cutmix": 1.0}
FAMILIES = {"vit": "ViT", "deit": "DeiT", "beit": "Beit", "dinov2": "Dinov2"}
POSITIONS = {"vit": 17, "deit": 18, "beit": 17, "dinov2": 17}


def tiny_vision(family: str = "vit", *, dropout: float = 0.0, seed: int = 0, **config: Any) -> Any:
    """A random model that tells three kinds of images of 16 x 16 apart, in eval mode."""
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    kind = getattr(transformers, f"{FAMILIES[family]}Config")
    settings = {**_SMALL, **drops, "num_labels": 3, **config}
    if family in ("vit", "deit"):
        del settings["drop_path_rate"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, f"{FAMILIES[family]}ForImageClassification")(kind(**settings)).eval()


def image_rows(count: int, seed: int = 0, size: int = SIZE, channels: int = 3) -> list[dict[str, Any]]:
    """Noise with a bright corner, whose place is the class."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        pixels, label = random.integers(0, 160, (size, size, channels)), int(random.integers(3))
        top, left = divmod(label, 2)
        half = size // 2
        pixels[top * half : (top + 1) * half, left * half : (left + 1) * half] += 90
        rows.append({"image": pixels.astype(np.uint8), "label": NAMES[label]})
    return rows


def image_parts(module: Any, rows: list[dict[str, Any]], *, micro_tokens: int, **keys: Any) -> Parts:
    """Ready to be trained in this split."""
    task = {"name": "image", "labels": list(NAMES), "augment": AUGMENT}
    return parts_of(
        module,
        rows,
        "single",
        micro_tokens=micro_tokens,
        packing="padded",
        **{"task": task, "batch": 40, **keys},
    )


def train_oracle(module: Any, parts: Parts, rows: list[dict[str, Any]], updates: int) -> Trajectory:
    """The same updates by the oracle: all images of an update at once, changed pixel by pixel."""
    weights, seed = parts.train.weights, parts.recipe.seed.data
    told: Any = parts.recipe.task.args.get("augment") or {}
    augment: Any = {name: told[name] for name in ("flip", "crop", "erase") if name in told}

    def row_of(place: int, number: int) -> dict[str, Any]:
        key = (seed, STREAM, place // len(rows), number) if augment else None
        return {
            "picture": picture(rows[number]["image"].tolist(), key=key, **augment),
            "target": NAMES.index(rows[number]["label"]),
            "weight": float(weights[number]),
        }

    return by_oracle(module, parts, row_of, updates, kind="single", pad_id=0)


def train_mixed_oracle(module: Any, parts: Parts, rows: list[dict[str, Any]], updates: int) -> Trajectory:
    """The same updates by the oracle: images of two, mixed one by one, with both of their classes."""
    weights, seed = parts.train.weights, parts.recipe.seed.data
    augment: Any = dict(parts.recipe.task.args["augment"])  # type: ignore[call-overload]
    moves: Any = {name: augment[name] for name in ("flip", "crop", "erase") if name in augment}
    mixes: Any = {name: augment[name] for name in ("mixup", "cutmix") if name in augment}

    def row_of(place: int, number: int) -> dict[str, Any]:
        key = (seed, STREAM, place // len(rows), number)
        other = partner_of(key, len(rows))
        own_picture, other_picture = (
            picture(rows[each]["image"].tolist(), key=(*key[:3], each), **moves) for each in (number, other)
        )
        shown, share = mixed_with(own_picture, other_picture, key, **mixes)
        shares = [
            (
                NAMES.index(rows[each]["label"]),
                float(np.float32(float(weights[each]) * part)),
            )  # as weights are kept
            for each, part in ((number, share), (other, 1 - share))
        ]
        return {"picture": shown, "shares": shares}

    return by_oracle(module, parts, row_of, updates, kind="mixed", pad_id=0)

"""Images with boxes for tests: rows, files of COCO, tiny detectors, and the oracle's updates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn

from bigbatch.build.parts import Parts
from bigbatch.data.augment import STREAM
from tests.reference import picture, things
from tests.split import Trajectory, by_oracle, parts_of

NAMES = ("cat", "dog", "cup")
SIZE, QUERIES = 16, 6
AUGMENT = {"flip": 0.5, "crop": 5, "erase": 0.3}


def tiny_detector(*, dropout: float = 0.0, seed: int = 0, **config: Any) -> Any:
    """A random YOLOS that gives 6 boxes of three classes of an image of 16 x 16, in eval mode."""
    settings = {
        "image_size": [SIZE, SIZE],
        "patch_size": 4,
        "num_channels": 3,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_detection_tokens": QUERIES,
        "use_mid_position_embeddings": False,
        "initializer_range": 0.1,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "num_labels": len(NAMES),
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.YolosForObjectDetection(transformers.YolosConfig(**settings))
        for name in (
            "detection_tokens",
            "position_embeddings",
        ):  # zeros, else: boxes that nothing tells apart
            nn.init.normal_(getattr(model.vit.embeddings, name), std=1.0)
    return model.eval()


def tiny_detr(seed: int = 0) -> Any:
    """A random DETR on a ResNet whose statistics are not those of a new one."""
    backbone: dict[str, Any] = {
        "num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
        "out_features": ["stage2"],
    }  # fmt: skip
    settings: dict[str, Any] = {
        "backbone_config": transformers.ResNetConfig(**backbone), "image_size": [SIZE, SIZE], "num_queries": QUERIES,
        "num_labels": len(NAMES), "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.0,
    }  # fmt: skip
    config = transformers.DetrConfig(**settings)
    return _random(transformers.DetrForObjectDetection, config, seed)


def tiny_rt_detr(seed: int = 1, *, version: str = "", **changed: Any) -> Any:
    """A random RT-DETR that is taught its encoder's boxes and those of two layers."""
    backbone: dict[str, Any] = {
        "num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 8, 16], "depths": [1, 1, 1], "layer_type": "basic",
        "out_features": ["stage1", "stage2", "stage3"],
    }  # fmt: skip
    settings = {
        "backbone_config": transformers.RTDetrResNetConfig(**backbone), "image_size": [SIZE, SIZE], "num_queries": QUERIES, "num_labels": len(NAMES),
        "d_model": 16, "encoder_hidden_dim": 16, "encoder_in_channels": [8, 8, 16], "feat_strides": [4, 8, 16],
        "encoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_in_channels": [16, 16, 16],
        "decoder_ffn_dim": 32, "decoder_n_points": 2, "decoder_layers": 2, "decoder_attention_heads": 2,
        "num_denoising": 0, **changed,
    }  # fmt: skip
    config = getattr(transformers, f"RTDetr{version}Config")(**settings)
    return _random(getattr(transformers, f"RTDetr{version}ForObjectDetection"), config, seed)


def _random(kind: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for part in model.modules():
            if "BatchNorm" in type(part).__name__:
                part.running_mean.normal_(std=0.2)
                part.running_var.uniform_(0.5, 2.0)
        for name, weight in model.named_parameters():  # else 0.01: places that nothing tells apart
            if weight.ndim == 2 and weight.requires_grad:
                nn.init.normal_(weight, std=1.0 if "quer" in name else 0.15)
            elif weight.ndim == 4:
                nn.init.kaiming_normal_(weight)
    return model.eval()


FAMILIES: Mapping[str, Any] = {"yolos": tiny_detector, "detr": tiny_detr, "rt_detr": tiny_rt_detr}


def stays(_part: nn.Module, _mode: bool = True) -> nn.Module:
    """In place of `train`."""
    return _part


def held(module: nn.Module) -> nn.Module:
    """The same model for the oracle: what `train` does to its BatchNorms is nothing."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train = MethodType(stays, part)  # type: ignore[method-assign]
    return module


def box_rows(count: int, seed: int = 0, most: int = 9) -> list[dict[str, Any]]:
    """Noise with rectangles as bright as their class says; some images have none, some more than the model gives."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        pixels = random.integers(0, 60, (SIZE, SIZE, 3))
        boxes, classes = [], []
        for _ in range(int(random.integers(0, most + 1)) if random.random() > 0.2 else 0):
            width, height = (int(each) for each in random.integers(2, 9, 2))
            left, top = int(random.integers(SIZE - width + 1)), int(random.integers(SIZE - height + 1))
            kind = int(random.integers(len(NAMES)))
            pixels[top : top + height, left : left + width] = 100 + 70 * kind
            boxes.append([float(left), float(top), float(width), float(height)])
            classes.append(NAMES[kind])
        rows.append({"image": pixels.astype(np.uint8), "boxes": boxes, "classes": classes})
    return rows


def detect_parts(module: Any, rows: list[dict[str, Any]], *, micro_tokens: int, **keys: Any) -> Parts:
    """Ready to be trained in this split."""
    task = {"name": "detect", "labels": list(NAMES), "augment": AUGMENT}
    settings = {"task": task, "batch": 20, **keys}
    return parts_of(module, rows, "single", micro_tokens=micro_tokens, packing="padded", **settings)


def train_oracle(module: Any, parts: Parts, rows: list[dict[str, Any]], updates: int) -> Trajectory:
    """The same updates by transformers' own loss of all images of an update at once, changed pixel by pixel."""
    seed = parts.recipe.seed.data
    augment: Any = parts.recipe.task.args.get("augment") or {}
    moves: Any = {name: augment[name] for name in ("flip", "crop") if name in augment}

    def row_of(place: int, number: int) -> dict[str, Any]:
        row, key = rows[number], (seed, STREAM, place // len(rows), number) if augment else None
        kinds = [NAMES.index(kind) for kind in row["classes"]]
        classes, boxes = things(row["boxes"], kinds, SIZE, key=key, **moves)
        shown = picture(row["image"].tolist(), key=key, **augment)
        return {"picture": shown, "classes": classes, "boxes": boxes}

    return by_oracle(module, parts, row_of, updates, kind="boxes", pad_id=0)


def write_coco(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "train", **changed: Any) -> Path:
    """Rows as PNG files and a file of COCO, whose keys may be changed."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, row in enumerate(rows, start=1):
        file = f"{name}/{number:03}.png"
        Image.fromarray(row["image"]).save(folder / file)
        images.append({"id": number, "file_name": file, "width": SIZE, "height": SIZE})
        for box, kind in zip(row["boxes"], row["classes"], strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 10 * (NAMES.index(kind) + 1),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 10 * place, "name": each} for place, each in enumerate(NAMES, start=1)]
    about = {"images": images, "annotations": annotations, "categories": categories, **changed}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(about), encoding="utf-8")
    return path

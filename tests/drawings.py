"""Models that draw, for tests: a small one whose every part matters, rows, and the oracle's updates."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.build.parts import Parts
from bigbatch.model.dit import FlowDiT, FlowDiTConfig
from bigbatch.tasks.diffuse import TRAINING
from tests.pictures import NAMES
from tests.reference import noisy
from tests.split import Trajectory, by_oracle, parts_of

SIZE = 8
TASK = {"name": "diffuse", "labels": list(NAMES), "hide_class": 0.3}


def tiny_dit(seed: int = 0, channels: int = 3, **config: Any) -> FlowDiT:
    """A random model for images of 8 x 8 in three classes; nothing in it is 0."""
    settings = FlowDiTConfig(
        image_size=SIZE, patch_size=4, num_channels=channels, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, num_labels=3, **config,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = FlowDiT(settings)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.1)
    return module.eval()


def drawing_parts(module: Any, rows: list[dict[str, Any]], *, micro_tokens: int, **keys: Any) -> Parts:
    """Ready to be trained in this split."""
    settings = {"task": TASK, "batch": 40, **keys}
    return parts_of(module, rows, "single", micro_tokens=micro_tokens, packing="padded", **settings)


def train_drawing_oracle(module: Any, parts: Parts, rows: list[dict[str, Any]], updates: int) -> Trajectory:
    """The same updates by the oracle: all images of an update at once, made noisy number by number."""
    seed, args = parts.recipe.seed.data, parts.recipe.task.args

    def row_of(place: int, number: int) -> dict[str, Any]:
        row = noisy(
            rows[number]["image"].tolist(),
            key=(seed, TRAINING, place // len(rows), number),
            hidden=float(str(args["hide_class"])),
            uniform=args.get("times") == "uniform",
        )
        return {**row, "class": 3 if row["hides"] else NAMES.index(rows[number]["label"])}

    return by_oracle(module, parts, row_of, updates, kind="velocity", pad_id=0)

"""A small recipe, and what real ranks hold and send in it: what a dry run must say without them."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from bigbatch.build.dry import as_shapes, look_at, unmeasured_plan
from bigbatch.build.inputs import Live
from bigbatch.build.only import plan_only
from bigbatch.places import Place
from bigbatch.probe.dry import Shapes
from bigbatch.protocols import World
from bigbatch.recipe.load import load_recipe
from tests.models import WORDS, tiny_folder

RECIPE: dict[str, Any] = {
    "model": "model",
    "task": {"name": "classify"},
    "data": {"train": "train.csv"},
    "batch": 32,
    "updates": 60,
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "clip": 1.0,
    "regularise": {"dropout": 0.1},
    "plan": {"micro_tokens": 128, "threads": 1},
}


def write_job(folder: Path, family: str = "bert") -> Path:
    """Model, data and recipe; returns the recipe's path."""
    tiny_folder(folder / "model", family)
    dice = random.Random(3)
    rows = [
        f"{' '.join(dice.choices(WORDS, k=dice.randint(2, 30)))},{dice.choice(('bad', 'good', 'so so'))}"
        for _ in range(200)
    ]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder / "recipe.yaml"


def looked_at(world: World, *, recipe: str, changes: list[str]) -> dict[str, Any]:
    """Real numbers, real ranks, the same eyes."""
    loaded, _ = as_shapes(load_recipe(recipe, changes, environ={}))
    shapes = Shapes()
    parts = plan_only(
        loaded,
        Live(),
        lambda text: None,
        world=world,
        place=Place(rank=world.rank, size=world.size, local_rank=world.rank, local_size=world.size),
        planner=unmeasured_plan,
    )
    shapes.see_module(parts.module)
    with shapes.watching():
        return asdict(look_at(parts, shapes))

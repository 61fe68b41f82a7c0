"""Runs of `auto` among ranks: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import bigbatch
from bigbatch.build.inputs import Live
from bigbatch.parallel.group import GroupWorld
from bigbatch.protocols import World
from bigbatch.recipe.load import load_recipe
from bigbatch.run.run import Run
from bigbatch.run.start import Wishes, open_run
from tests.jobs import differing, document, lines, weights
from tests.models import tiny
from tests.split import rows_of

ROWS = rows_of("single", 160, longest=12)
HELD_OUT = rows_of("single", 120, longest=12, seed=1)
KEYS: dict[str, Any] = {
    "plan.micro_tokens": 256,
    "plan.packing": "padded",
    "run.checkpoint_every": "5 updates",
}


def trained() -> Any:
    """A model that does not look as if it had just been made."""
    model = tiny("bert")
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.bias[0] += 1e-3
    return model


def begin(
    folder: Path, rows: Any = ROWS, validation: Any = HELD_OUT, model: Any = trained, **keys: Any
) -> Run:
    """A run of this process, whose batch, length and rate are left to it."""
    return bigbatch.start(model(), rows, validation, set={**KEYS, **keys}, run_dir=folder)


def decided(folder: Path) -> dict[str, Any]:
    """What a run decided, and when; losses beside it."""
    plan = document(folder, "plan.json")
    told = [
        line for line in lines(folder, "event") if line["event"] in ("plateau", "rate_test", "batch_grown")
    ]
    return {
        "choices": {name: plan[name]["value"] for name in plan if name.startswith("auto_")},
        "updates": plan["updates"]["value"],
        "events": [[line["event"], line["step"], line.get("lr"), line.get("updates")] for line in told],
        "lr": [line["lr"] for line in lines(folder, "update")],
        "samples": [line["batch_samples"] for line in lines(folder, "update")],
        "loss": [line["loss"] for line in lines(folder, "update")],
    }


def through(
    world: World, *, root: str, stop: int, end: int | None = None, rows: int = 160, **keys: Any
) -> dict[str, Any]:
    """A run to its end, or to update `end`; and one that is left after `stop` updates and gone on with: whether their
    bits are equal, and what they decided.
    """
    train = rows_of("single", rows, longest=12)
    straight = weights(_run(world, f"{root}/straight", end, keys, train))
    _run(world, f"{root}/left", stop, keys, train)
    again = weights(_run(world, f"{root}/left", end, keys, train))
    if world.rank:
        return {}
    folders = [Path(root) / name for name in ("straight", "left")]
    return {"differing": differing(straight, again), "decided": [decided(folder) for folder in folders]}


def _run(world: World, folder: str, stop: int | None, keys: dict[str, Any], train: Any) -> Run:
    recipe = load_recipe(
        {
            "model": {"name": None}, "data": {"train": []}, "batch": "auto", "epochs": "auto",
            "optimizer": {"lr": "auto"}, "run": {"dir": folder},
            "schedule": {"name": "wsd", "warmup": "40 updates", "decay": "20 %"},
            "plan": {"threads": 1, "compile": "off"},
        },
        {**KEYS, **keys},
    )  # fmt: skip
    given = Live(module=trained(), train=train, validation=HELD_OUT)
    # Of its own: a group of ranks knows the parameters of one model.
    run = open_run(recipe, given, Wishes(world=GroupWorld() if world.size > 1 else world))
    run._let_go = lambda: None  # type: ignore[method-assign]  # the group serves several runs
    with run:
        for record in run:
            if record.kind == "update" and record.step == stop:
                break
    run._stack.close()
    return run

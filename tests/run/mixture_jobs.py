"""A run of a mixture among ranks: `(world, **JSON) -> JSON`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from bigbatch.build.inputs import Live
from bigbatch.parallel.group import GroupWorld
from bigbatch.protocols import World
from bigbatch.recipe.load import load_recipe
from bigbatch.run.start import Wishes, open_run
from tests.models import tiny

LEFT_OUT = ("time", "seconds", "wait_seconds", "peak_memory_bytes", "samples_per_second", "padding_share")
"""Of a record: what a clock, the machine or the cut decides."""


def trained(world: World, *, recipe: str, killed_after: int = 0, **keys: Any) -> dict[str, Any]:
    """The whole weights' values, and what the journal says of updates and evaluations, of a run in fp64.

    Args:
        world: the ranks.
        recipe: its file; the model is a live one.
        killed_after: the update after which every rank kills itself; 0: none does.
        keys: on top of the recipe.
    """
    run = open_run(
        load_recipe(
            yaml.safe_load(Path(recipe).read_text()),
            [f"{name}={json.dumps(value)}" for name, value in keys.items()],
        ),
        Live(module=tiny("bert").double()),
        Wishes(world=GroupWorld() if world.size > 1 else world),
    )
    with run:
        for record in run:
            if record.kind == "update" and record.step == killed_after:
                os.kill(os.getpid(), signal.SIGKILL)
    lines = [json.loads(line) for line in (Path(run.path) / "metrics.jsonl").read_text().splitlines()]
    journal = [
        {name: value for name, value in line.items() if name not in LEFT_OUT}
        for line in lines
        if line["kind"] != "event"
    ]
    model = load_file(Path(run.path) / "model" / "model.safetensors")
    weights = [value for name in sorted(model) for value in model[name].double().flatten().tolist()]
    return {"status": run.status, "journal": journal, "weights": weights}

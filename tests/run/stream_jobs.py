"""A whole run on a stream among ranks: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from typing import Any

from bigbatch.build.inputs import Live
from bigbatch.errors import BigbatchError
from bigbatch.parallel.group import GroupWorld
from bigbatch.protocols import World
from bigbatch.recipe.load import load_recipe
from bigbatch.run.start import Wishes, open_run


def trained(world: World, *, recipe: str, runs: list[dict[str, Any]]) -> list[Any]:
    """Of each run, one behind the other in the same group: how it ended, and the trainable weights' sum of squares and
    losses, as text, so that bits count. `until`: the update after which it is left, to be gone on with by the next.
    """
    found = []
    for keys in runs:
        until = keys.pop("until", None)
        run = open_run(
            load_recipe(recipe, [f"{name}={value}" for name, value in keys.items()]),
            Live(),
            Wishes(world=GroupWorld() if world.size > 1 else world),
        )
        losses: list[str] = []
        try:
            with run:
                for record in run:
                    if record.kind == "update":
                        losses.append(repr(record["loss"]))
                        if record.step == until:
                            break
        except BigbatchError as error:
            found.append([type(error).__name__, str(error), losses])
            continue
        weights = [repr(float(tensor.double().square().sum())) for tensor in run.model.state_dict().values()]
        found.append([run.status, weights, losses])
    return found

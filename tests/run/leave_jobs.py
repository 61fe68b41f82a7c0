"""Whole runs among ranks that are left in the middle of an update: `(world, **JSON) -> JSON`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from bigbatch.build.inputs import Live
from bigbatch.errors import BigbatchError
from bigbatch.parallel.group import GroupWorld
from bigbatch.protocols import World
from bigbatch.recipe.load import load_recipe
from bigbatch.run.run import Run
from bigbatch.run.start import Wishes, open_run
from tests.jobs import Faulty, lines
from tests.models import tiny
from tests.split import rows_of

ROWS = rows_of("single", 64, longest=20)
HELD_OUT = rows_of("single", 24, longest=20, seed=1)
UPDATES = 4


class Bug(Exception):
    """What a user's code raises."""


class Trouble:
    """A loss in which something happens once, on one rank, at one of its calls with a gradient."""

    def __init__(self, way: str, call: int, mine: bool) -> None:
        self.loss, self.way, self.call, self.mine, self.calls = Faulty(), way, call, mine, 0
        self.run: Run | None = None

    def arm(self) -> None:
        self.calls = 0
        if not self.mine or self.way == "metric" or self.run is None or self.run._between is None:
            return
        if self.way == "evaluation":
            self.run.model.register_forward_pre_hook(self._in_evaluation)
        elif self.way == "data":
            self.run._between.supply.at = self._no_data  # type: ignore[method-assign]
        else:
            self.loss.fault = self._fault

    def metric(self, predictions: Any, targets: Any) -> float:
        """A metric of the user."""
        if self.mine and self.way == "metric":
            raise Bug("of the user")
        return 1.0

    def _in_evaluation(self, module: torch.nn.Module, args: Any) -> None:
        if not module.training:
            self.calls += 1
            if self.calls == self.call:
                raise torch.OutOfMemoryError("no room for 9 bytes")

    def _no_data(self, *_: Any) -> Any:
        raise Bug("of the user")

    def _fault(self, losses_U: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls != self.call:
            return losses_U
        if self.way == "nonfinite":
            return losses_U * float("nan")
        if self.way in ("signal", "interrupt", "late"):
            os.kill(os.getpid(), signal.SIGINT if self.way == "interrupt" else signal.SIGTERM)
            if self.way == "late":
                assert self.run is not None and self.run._between is not None
                self.run._between.boundary.flag._requested_at -= 20.0
            return losses_U
        raise torch.OutOfMemoryError("no room for 9 bytes") if self.way == "memory" else Bug("of the user")


def _opened(world: World, folder: str, keys: dict[str, Any], loss: Any, **live: Any) -> Run:
    recipe = load_recipe(
        {
            "model": {"name": None}, "data": {"train": []}, "updates": UPDATES, "batch": 16,
            "optimizer": {"lr": 1e-3}, "run": {"dir": folder},
            "plan": {"micro_tokens": 64, "packing": "padded", "threads": 1, "compile": "off"},
        },
        keys,
    )  # fmt: skip
    given = Live(module=tiny("bert", dropout=0.1), train=ROWS, validation=HELD_OUT, loss=loss, **live)
    # Of its own: a group of ranks knows the parameters of one model.
    return open_run(recipe, given, Wishes(world=GroupWorld() if world.size > 1 else world))


def through(
    world: World, *, root: str, mesh: dict[str, int] | None, cases: list[list[Any]], **keys: Any
) -> Any:
    """A quiet run; then for each case (way, call, rank) a run in which that happens in update 2, and the same command
    again. How the first ended, and what the journal holds in the end.
    """
    given = {f"plan.mesh.{axis}": ranks for axis, ranks in (mesh or {}).items()} | keys
    quiet = _run(world, f"{root}/quiet", given, Trouble("", 0, False))
    found = [{**quiet, **_journal(world, quiet["path"])}]
    for number, (way, call, rank) in enumerate(cases):
        trouble = Trouble(way, call, world.rank == rank)
        first = _run(world, f"{root}/{number}", given, trouble)
        first["journal"] = _journal(world, first["path"])
        if first["status"] != "finished":
            again = _run(world, f"{root}/{number}", given, Trouble("", 0, False))
            first["again"] = again["status"]
        found.append({**first, **_journal(world, first["path"])})
    return found


def _run(world: World, folder: str, keys: dict[str, Any], trouble: Trouble) -> dict[str, Any]:
    raised: BaseException | None = None
    run = trouble.run = _opened(world, folder, keys, trouble.loss, metrics=(trouble.metric,))
    run._let_go = lambda: None  # type: ignore[method-assign]  # the group serves several runs
    try:
        with run:
            for record in run:
                if record.kind == "update" and record.step == 1:
                    trouble.arm()
    except Exception as error:
        raised = error
    run._stack.close()
    if run._parts is not None:
        run._parts.forward.close()
    return {
        "path": str(run.path),
        "status": run.status,
        "signal": run.signal,
        "raised": None if raised is None else type(raised).__name__,
        "text": str(raised),
        "code": raised.exit_code if isinstance(raised, BigbatchError) else None,
    }


def _journal(world: World, path: str) -> dict[str, Any]:
    if world.rank:
        return {}
    folder = Path(path)
    return {
        "losses": [line["loss"] for line in lines(folder, "update")],
        "steps": [line["step"] for line in lines(folder, "update")],
        "events": [[line["event"], line["step"], line["why"]] for line in lines(folder, "event")],
    }

"""What ranks do in tests of leaving an update in the middle: `(world, **JSON) -> JSON`."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bigbatch.build.parts import Parts
from bigbatch.parallel.agree import Leaving
from bigbatch.protocols import Rates, World
from bigbatch.records import Update
from bigbatch.samples import MicroBatch
from bigbatch.step.apart import Apart
from tests.matching import base_of, match_parts, pairs
from tests.models import tiny
from tests.split import SMALL, parts_of, rows_of

POINTS = ("between", "forward", "backward")
PLACES = ("first", "middle", "last")
WAYS = ("memory", "signal", "exception", "interrupt")


class Bug(Exception):
    """What a user's code raises."""


@dataclass
class Fault:
    """Something that happens to one rank at one point of its pass, once."""

    way: str
    """One of `WAYS`."""
    point: str
    """One of `POINTS`: before the micro-batch, or inside the second block."""
    place: str
    """One of `PLACES`: which pass of the rank."""

    def happen(self) -> None:
        raise {
            "memory": lambda: torch.OutOfMemoryError("no room for 9 bytes"),
            "signal": lambda: Leaving(signal.SIGTERM, "SIGTERM was received"),
            "exception": lambda: Bug("the loss of the user"),
            "interrupt": KeyboardInterrupt,
        }[self.way]()


class Faults:
    """Makes a fault happen in the update of some parts.

    Passes are counted, not micro-batches: a loss that couples the batch runs each micro-batch twice.
    """

    def __init__(self, parts: Parts, world: World) -> None:
        self.parts, self.world = parts, world
        self.armed: Fault | None = None
        self.seen = {point: 0 for point in POINTS}
        self.total = {point: 0 for point in POINTS}
        block = next(part for name, part in parts.module.named_modules() if name.endswith("layer.1"))
        block.register_forward_pre_hook(lambda *_: self._at("forward"))
        block.register_forward_hook(self._output)

    def begin(self) -> None:
        """A pass begins; the one before says how many points it has."""
        self.total, self.seen = self.seen, {point: 0 for point in POINTS}

    def pieces(self, pieces: Iterator[MicroBatch]) -> Iterator[MicroBatch]:
        for piece in pieces:
            self._at("between")
            yield piece

    def _output(self, module: Any, args: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if found.requires_grad:
            found.register_hook(lambda gradient: self._at("backward"))

    def _at(self, point: str) -> None:
        number, total = self.seen[point], self.total[point]
        self.seen[point] += 1
        fault = self.armed
        if fault is None or fault.point != point:
            return
        if number == {"first": 0, "middle": total // 2, "last": total - 1}[fault.place]:
            self.armed = None
            fault.happen()


def updated(parts: Parts, faults: Faults, update: int, position: int) -> Update:
    """One update, as the loop has it."""
    batch = parts.batches.at(position, update)
    parts.strategy.resume()
    faults.begin()
    pieces = faults.pieces(parts.strategy.pieces(batch, parts.cut))
    (record,) = parts.strategy.update(batch, pieces, Rates(lr=1e-3))
    return record


def built(world: World, kind: str, place: str) -> Parts:
    """Parts of one kind of run; dropout on, so that a replay must draw the same masks."""
    if kind.startswith("match"):
        plan = {"plan": {"mesh": {"shard": 2}}} if kind == "match-shard" else {}
        gradient = {} if kind == "match-plain" else {"gradient": "cached"}
        where = Path(place) / f"{kind}-{world.rank}"
        return match_parts(
            base_of(), pairs(40), where, micro_tokens=64, packing="packed", world=world, **gradient, **plan
        )
    mesh = {
        "shard": {"shard": 2}, "tensor": {"tensor": 2}, "both": {"replicate": 2, "shard": 2},
    }.get(kind)  # fmt: skip
    keys: dict[str, Any] = {"plan": {"mesh": mesh}} if mesh else {}
    if kind == "apart":
        keys["sync"] = {"replicas": 2, "period": 3}
    if kind == "bitwise":
        keys["plan"] = {"reproducible": "bitwise"}
    return parts_of(
        tiny("bert", dropout=0.1, **SMALL), rows_of("single", 60, seed=5, longest=20), "single", micro_tokens=48,
        packing="packed", world=world, batch=30, **keys,
    )  # fmt: skip


def left(world: World, *, kinds: list[str], cases: list[list[Any]], place: str) -> Any:
    """Each case: a fault on one rank, what every rank raised and how long it took; then the same update again.

    Args:
        world: the ranks.
        kinds: kinds of runs.
        cases: (way, point, place, rank).
        place: for files.
    """
    return {kind: _left(world, built(world, kind, place), cases) for kind in kinds}


def _left(world: World, parts: Parts, cases: list[list[Any]]) -> list[dict[str, Any]]:
    faults = Faults(parts, world)
    tensors = [*parts.strategy.parameters]
    if isinstance(parts.strategy, Apart):
        tensors += [tensor for replica in parts.strategy.replicas.held for tensor in replica.tensors]
    before = [tensor.detach().clone() for tensor in tensors]
    quiet = updated(parts, faults, 1, 0)
    found = []
    for way, point, place, rank in cases:
        with torch.no_grad():
            for tensor, kept in zip(tensors, before, strict=True):
                tensor.copy_(kept)
        faults.armed = Fault(way, point, place) if world.rank == rank else None
        started = time.monotonic()
        try:
            updated(parts, faults, 1, 0)
            raised: BaseException | None = None
        except Exception as error:
            raised = error
        seconds = time.monotonic() - started
        faults.seen = dict(faults.total)
        moved = any(not torch.equal(tensor, kept) for tensor, kept in zip(tensors, before, strict=True))
        again = updated(parts, faults, 1, 0)
        found.append(
            {
                "case": [way, point, place, rank],
                "raised": type(raised).__name__,
                "text": str(raised),
                "signal": getattr(raised, "signal", None),
                "seconds": seconds,
                "moved": moved,
                "same": [again.loss == quiet.loss, again.grad_norm == quiet.grad_norm],
            }
        )
    return found

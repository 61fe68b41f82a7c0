"""Measure a little on the real machine, then plan: facts in, a frozen plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from bigbatch.data.batches import Batches
from bigbatch.data.packs import micro_batches
from bigbatch.model.anatomy import model_facts
from bigbatch.model.forwards import PackedForward, PaddedForward, can_pack
from bigbatch.optim.build import state_multiple
from bigbatch.plan.frozen import Plan
from bigbatch.plan.planner import make_plan
from bigbatch.plan.timing import Work
from bigbatch.probe.calibrate import calibrate
from bigbatch.probe.exactness import probe_packing
from bigbatch.protocols import Forward
from bigbatch.recipe.schema import Recipe
from bigbatch.records import HardwareFacts, LengthFacts, MicroBatch, Packing, ProbeFacts, TokenTable
from bigbatch.rules.clocks import Length
from bigbatch.run.ready import Ready

PROBE_SAMPLES = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What measuring needs."""

    recipe: Recipe
    hardware: HardwareFacts
    ready: Ready
    tables: Mapping[str, TokenTable]
    batches: Batches
    lengths: LengthFacts
    length: Length
    new_optimizer: Callable[[nn.Module], Any]
    say: Callable[[str], None]


def measured_plan(on: Measured) -> Plan:
    """Probe the unpadded path, calibrate speed and memory on real micro-batches, plan.

    Raises:
        DoesNotFit: the prediction exceeds the machine's memory.
    """
    recipe, train = on.recipe, on.tables["train"]
    probe = _probe(on)
    packing: Packing = "packed" if probe.packed_ok and recipe.plan.packing != "padded" else "padded"
    first = on.batches.at(0, 1)

    def pieces(micro_tokens: int) -> list[MicroBatch]:
        return list(micro_batches(first, train, micro_tokens=micro_tokens, packing=packing))

    on.say("calibrating: how fast, how much memory?")
    asked = recipe.plan.micro_tokens
    forward = forward_for(on.ready, packing)
    try:
        calibration = calibrate(
            forward,
            on.ready.task,
            on.ready.module,
            pieces,
            on.new_optimizer,
            candidates=[asked] if asked else None,
            memory_bytes=recipe.plan.memory or on.hardware.memory_bytes,
        )
    finally:
        let_go(forward)
    return make_plan(
        recipe,
        on.hardware,
        model_facts(on.ready.module),
        on.lengths,
        probe,
        calibration,
        state_multiple(recipe.optimizer.name, recipe.optimizer.momentum),
        Work(
            length=on.length,
            validation_tokens=sum(
                _tokens(on.tables, name) for name in on.tables if name.startswith("validation")
            ),
            test_tokens=_tokens(on.tables, "test"),
        ),
    )


def forward_for(ready: Ready, packing: Packing) -> Forward:
    """The plan's way of running a micro-batch."""
    if packing == "packed":
        return PackedForward(ready.module, ready.anatomy)
    return PaddedForward(ready.module, ready.pad_id)


def let_go(forward: Forward) -> None:
    """Give the module its own attention back, if this forward exchanged it."""
    close = getattr(forward, "close", None)
    if close is not None:
        close()


def _tokens(tables: Mapping[str, TokenTable], name: str) -> int:
    return int(tables[name].token_offsets[-1]) if name in tables else 0


def _probe(on: Measured) -> ProbeFacts:
    """Compare the unpadded path with the plain one on the longest, the shortest and other real samples."""
    possible, reason = can_pack(on.ready.module)
    if not possible:
        return ProbeFacts(packed_ok=False, reason=reason, error=None, samples=0)
    on.say("probing: does the unpadded path give the plain path's numbers on these samples?")
    train = on.tables["train"]
    by_length = np.argsort(train.lengths_B, kind="stable")
    spread = np.linspace(0, len(by_length) - 1, min(PROBE_SAMPLES, len(by_length))).astype(np.int64)
    ids = np.sort(by_length[spread])
    longest = int(train.lengths_B.max())
    pieces = list(micro_batches(ids, train, micro_tokens=max(512, longest), packing="packed"))
    packed = PackedForward(on.ready.module, on.ready.anatomy)
    try:
        return probe_packing(packed, PaddedForward(on.ready.module, on.ready.pad_id), pieces)
    finally:
        packed.close()

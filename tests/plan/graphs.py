"""An analysis as `graph.analyse` fills it, for tests of how it is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bigbatch.plan.graph import Cost, Finding, GraphAnalysis, ModuleCost, Padding, PartCost, Plain

GIGA, MEBI = 10**9, 2**20


def module(name: str, gigaflops: float, **fields: Any) -> ModuleCost:
    cost = Cost(
        forward_flops=round(gigaflops * GIGA / 3),
        backward_flops=round(gigaflops * GIGA * 2 / 3),
        read_bytes=20 * MEBI,
        written_bytes=10 * MEBI,
        kept_bytes=3 * MEBI,
        seconds=gigaflops / 50,
        operations=5,
    )
    return ModuleCost(**{"name": name, "kind": "Linear", "cost": cost, **fields})


def part(name: str, *modules: ModuleCost) -> PartCost:
    cost = sum((one.cost for one in modules), Cost())
    unread = sum(one.cost.flops * (one.unread_fraction or 0) for one in modules)
    return PartCost(name=name, cost=cost, modules=modules, unread_flops=round(unread))


def graph(**changes: Any) -> GraphAnalysis:
    """Two blocks, the second one mostly for nobody."""
    found = GraphAnalysis(
        forward="packed",
        device="cpu",
        precision="float32",
        samples=28,
        real_tokens=986,
        computed_tokens=986,
        trained_parameters=1_000_000,
        parts=(
            part("embeddings", module("LayerNorm", 0.0, kind="LayerNorm")),
            part("block 1", module("key", 6.0), module("dense", 12.0)),
            part("block 2", module("key", 6.0), module("dense", 12.0, unread_fraction=0.9)),
            part("classifier", module("", 0.003)),
        ),
        findings=(
            Finding(
                kind="unread",
                where="block 2",
                what="90.0 % of the positions are never read",
                flops=round(10.8 * GIGA),
                moved_bytes=5 * MEBI,
                seconds=0.2,
            ),
            Finding(
                kind="copy", where="all", what="134 copies", moved_bytes=40 * MEBI, seconds=0.001, count=134
            ),
            Finding(kind="repeated", where="block 1", what="one tiny mask again", moved_bytes=3),
            Finding(
                kind="sync",
                where="m.py:1 f",
                what="item in block 1 (m.py:1 f) waits for the GPU: once a micro-batch",
            ),
        ),
        padding=Padding(samples=256, real_tokens=7781, random_32=0.395, sorted_32=0.093, sorted_budget=0.083),
        plain=Plain(computed_tokens=1008, cost=Cost(forward_flops=20 * GIGA, backward_flops=20 * GIGA)),
        notes=("2 calls of own_kernel have no FLOP formula and count as none",),
    )
    return replace(found, **changes)

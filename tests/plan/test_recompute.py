"""Recomputation: none while it fits, then as few FLOPs as the memory allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bigbatch.errors import DoesNotFit
from bigbatch.facts import CalibrationFacts, ForwardFacts, HardwareFacts, LengthFacts, ModelFacts, ProbeFacts
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.planner import make_plan
from bigbatch.plan.recompute import asked, options

BLOCKS = 5


@pytest.fixture
def kept(calibration: CalibrationFacts) -> CalibrationFacts:
    return replace(calibration, selective_bytes_per_token=60_000)


def test_from_no_flops_to_many(model: ModelFacts, kept: CalibrationFacts) -> None:
    found = list(options(model, 170_000, kept, BLOCKS))
    kinds = [(way.kind, way.blocks) for way in found]
    assert kinds == [("none", 0)] + [
        (kind, n) for kind in ("selective", "blocks") for n in range(1, BLOCKS + 1)
    ]
    by_kind = {kind: [way for way in found if way.kind == kind] for kind in ("selective", "blocks")}
    for ways in by_kind.values():
        assert [way.slowdown for way in ways] == sorted(way.slowdown for way in ways)
        sizes = [way.activation_bytes_per_token for way in ways]
        assert sizes == sorted(sizes, reverse=True) and 0 < sizes[-1] < sizes[0] < 170_000
    # One block of activations and the entrances of the others: what a fully recomputing model needs.
    assert by_kind["blocks"][-1].activation_bytes_per_token == pytest.approx(170_000 / 6 + 5 * 4 * 384)
    assert by_kind["blocks"][-1].slowdown == pytest.approx(1 + 5 / 6 / 3)


@pytest.mark.parametrize(
    ("wish", "kind", "blocks"),
    [
        ("none", "none", 0),
        ("blocks", "blocks", 5),
        ("selective", "selective", 5),
        (1, "blocks", 5),
        (2, "blocks", 3),
        (9, "blocks", 1),
    ],
)
def test_what_the_user_asks_for(
    model: ModelFacts, kept: CalibrationFacts, wish: Any, kind: str, blocks: int
) -> None:
    found = asked(wish, list(options(model, 170_000, kept, BLOCKS)), BLOCKS)
    assert (found.kind, found.blocks) == (kind, blocks)


def plan_with(
    limit_mib: int, hardware: HardwareFacts, model: ModelFacts, lengths: LengthFacts, probe: ProbeFacts,
    kept: CalibrationFacts, recipe: Any, recomputable: int = BLOCKS,
) -> Any:  # fmt: skip
    facts = ForwardFacts(last_block=probe, recomputable_blocks=recomputable)
    hardware = replace(hardware, memory_bytes=limit_mib * 2**20)
    return make_plan(recipe, hardware, model, lengths, probe, kept, None, facts)


def test_only_as_much_as_is_needed(
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts,
    kept: CalibrationFacts,
    recipe_with: Any,
) -> None:
    """900 MiB process and 260 MiB of gradients and state; 4,096 tokens need 664 MiB of activations."""
    recipe = recipe_with(plan__micro_tokens=4096)
    given = (hardware, model, lengths, probe, kept, recipe)
    found = {}
    for limit in (2000, 1800, 1600, 1450, 1350):
        plan = plan_with(limit, *given)
        how = ForwardPlan.of(plan.choices)
        found[limit] = (how.recompute, how.recomputed_blocks)
        assert plan.value("micro_tokens") == 4096
        assert plan.choices["peak_memory_bytes"].prediction <= limit * 2**20
    assert found[2000] == ("none", 0)
    assert [kind for kind, _ in found.values()] == ["none", "selective", "selective", "blocks", "blocks"]
    assert found[1800][1] < found[1600][1] and found[1450][1] < found[1350][1]
    slow, quick = plan_with(1350, *given), plan_with(2000, *given)
    assert slow.predictions()["train_seconds"] > 1.1 * quick.predictions()["train_seconds"]
    assert "more time" in slow.choices["recompute"].reason
    with pytest.raises(DoesNotFit, match="4,096|plan.micro_tokens"):
        plan_with(1200, *given)


def test_a_smaller_micro_batch_comes_first(
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts,
    kept: CalibrationFacts,
    recipe_with: Any,
) -> None:
    plan = plan_with(1250, hardware, model, lengths, probe, kept, recipe_with())
    assert plan.value("recompute") == "none" and plan.value("micro_tokens") < 1024
    long = replace(lengths, longest=1024)
    plan = plan_with(1250, hardware, model, long, probe, kept, recipe_with())
    assert plan.value("recompute") != "none", "a sample of 1,024 tokens is computed whole"
    with pytest.raises(DoesNotFit):
        plan_with(1250, hardware, model, long, probe, kept, recipe_with(), recomputable=0)

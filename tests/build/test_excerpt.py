"""A model that ranks will divide: measured where it computes, by its first blocks if it does not fit whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bigbatch.build.build import Given, build
from bigbatch.build.excerpt import BLOCKS, line
from bigbatch.build.first_blocks import first_blocks
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.build.measure import measured_plan
from bigbatch.build.measured import Measured
from bigbatch.errors import DoesNotFit
from bigbatch.model.anatomy import anatomy
from bigbatch.parallel.dry import group_of_one
from bigbatch.plan.frozen import Plan
from bigbatch.recipe.load import load_recipe
from tests.models import FAMILIES, tiny
from tests.split import rows_of

ROWS = rows_of("single", 60, longest=30)
MESH = {"shard": 2}


class Seen(Exception):
    """The planner has been asked; nothing of the imagined ranks' run is wanted."""


def planned(memory: int | None, *, blocks: int = 8) -> tuple[Measured, Plan, list[str], Any]:
    """What the planner is given when rank 0 of two may use so much memory, and a plan from it that may use all."""
    module = tiny("bert", num_hidden_layers=blocks)
    recipe = load_recipe(
        {
            "model": {"name": None},
            "data": {"train": []},
            "batch": 16,
            "updates": 60,
            "plan": {"mesh": MESH, "memory": memory, "micro_tokens": 128},
        },
        environ={},
    )
    live = Live(module=module, train=ROWS)
    task = live_task(recipe, live)
    found: list[Any] = []
    said: list[str] = []

    def planner(on: Measured) -> Plan:
        free = recipe.plan.model_copy(update={"memory": None})
        plan = measured_plan(replace(on, recipe=recipe.model_copy(update={"plan": free})))
        found.extend((on, plan, len(anatomy(module).blocks)))
        raise Seen

    with group_of_one(2) as world, pytest.raises(Seen):
        given = Given(live=live, world=world, planner=planner, say=said.append)
        build(recipe, task, read_inputs(recipe, task, live), given)
    on, plan, applied = found
    return on, plan, said, (module, applied)


def test_a_model_that_does_not_fit_whole_is_measured_by_its_first_blocks() -> None:
    whole, whole_plan, said, (_, applied) = planned(None)
    assert not whole.excerpt and applied == 8 and not any("measuring by" in text for text in said)
    part, plan, said, (module, applied) = planned(1)
    assert part.excerpt and applied == BLOCKS
    assert any("measuring by 2 of 8 blocks" in text for text in said)
    # Afterwards it is whole again.
    assert len(anatomy(module).blocks) == 8 and module.config.num_hidden_layers == 8
    assert part.model == whole.model and part.recomputable_blocks == whole.recomputable_blocks
    sizes, whole_sizes = (each.choices["peak_memory_bytes"].value for each in (plan, whole_plan))
    for name in ("parameters", "gradients", "optimizer_state", "gathered", "returned"):
        assert sizes[name] == whole_sizes[name], name
    # From one block and from two to eight, by a line: storages are counted, so there is no noise in it.
    assert sizes["activations"] == pytest.approx(whole_sizes["activations"], rel=0.2)


def test_a_model_that_is_not_divided_is_never_cut() -> None:
    module = tiny("bert", num_hidden_layers=8)
    recipe = load_recipe(
        {
            "model": {"name": None},
            "data": {"train": []},
            "batch": 16,
            "updates": 60,
            "plan": {"memory": 2**20, "micro_tokens": 128},
        },
        environ={},
    )
    live = Live(module=module, train=ROWS)
    task = live_task(recipe, live)
    with pytest.raises(DoesNotFit, match=r"plan\.mesh\.shard"):
        build(recipe, task, read_inputs(recipe, task, live), Given(live=live, cache_dir=None))


@pytest.mark.parametrize("family", FAMILIES)
def test_first_blocks_of_every_family(family: str) -> None:
    module = tiny(family, num_hidden_layers=4)
    parts = anatomy(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for count in (1, 2):
        with first_blocks(module, parts, count) as kept:
            assert len(kept.blocks) == count
            assert kept.pools == parts.pools and kept.head == parts.head
    after = module.state_dict()
    assert before.keys() == after.keys() and len(anatomy(module).blocks) == len(parts.blocks)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_line_through_one_and_two_blocks() -> None:
    assert line(5.0, 7.0, 12) == 5 + 11 * 2
    assert line(5.0, 4.9, 12) == 5

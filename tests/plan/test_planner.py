"""Choices, their reasons, and refusals that name what would fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bigbatch.errors import DoesNotFit, RecipeError
from bigbatch.facts import CalibrationFacts, HardwareFacts, LengthFacts, ModelFacts, ProbeFacts
from bigbatch.plan.planner import make_plan
from bigbatch.plan.timing import Work
from bigbatch.recipe.adapters import AdapterSpec
from bigbatch.recipe.machine import MeshSpec
from bigbatch.rules.clocks import Length

MakeRecipe = Callable[..., Any]
GIB = 1024**3


@pytest.fixture
def facts(
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts,
    calibration: CalibrationFacts,
) -> dict[str, Any]:
    return {
        "hardware": hardware, "model": model, "lengths": lengths, "probe": probe, "calibration": calibration,
        "work": Work(validation_tokens=38_000, test_tokens=76_000),
    }  # fmt: skip


def test_the_demo(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    plan = make_plan(recipe_with(), **facts)
    sources = {name: choice.source for name, choice in plan.choices.items()}
    assert (plan.value("micro_tokens"), sources["micro_tokens"]) == (1024, "measured")
    assert (plan.value("packing"), sources["packing"]) == ("packed", "measured")
    assert (plan.value("device"), plan.value("threads"), plan.value("ranks")) == ("cpu", 2, 1)
    assert (plan.value("precision"), sources["precision"]) == ("fp32", "default")
    assert plan.value("updates") == 132
    assert "132 updates = 33,792 samples = 3.014 epochs" in plan.choices["updates"].reason
    assert 8 <= plan.value("accumulation") <= 10
    assert (plan.value("learning_rate"), sources["learning_rate"]) == (5e-4, "user")
    assert plan.warnings == ()
    predicted = plan.predictions()
    assert predicted["train_seconds"] == pytest.approx(132 * (256 * 34 * 7e-4 + 0.06), rel=0.02)
    assert predicted["evaluate_seconds"] == pytest.approx((3 * 38_000 + 76_000) * 2e-4, rel=1e-9)
    lasting = 900 * 1024**2 + 3 * 4 * 22_714_755
    assert predicted["peak_memory_bytes"] == pytest.approx(lasting + 170_000 * 1024, rel=1e-9)


def test_every_choice_says_why_and_who(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    for choice in make_plan(recipe_with(), **facts).choices.values():
        assert len(choice.reason) > 10
        assert choice.source in ("user", "default", "derived", "measured")


def test_the_user_is_obeyed_and_named(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    recipe = recipe_with(plan__micro_tokens=512, plan__packing="padded", plan__device="cpu", plan__threads=2)
    plan = make_plan(recipe, **facts)
    for name, value in (("micro_tokens", 512), ("packing", "padded"), ("device", "cpu"), ("threads", 2)):
        assert (plan.value(name), plan.choices[name].source) == (value, "user")
        assert f"plan.{name}" in plan.choices[name].reason


def test_what_was_tried_is_in_the_reason(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    reason = make_plan(recipe_with(), **facts).choices["micro_tokens"].reason
    assert "1,351 tokens/s at 512, 1,429 tokens/s at 1,024, 1,250 tokens/s at 2,048" in reason


def test_micro_batches_of_narrow_models_hold_more_tokens(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    for hidden, tokens in ((32, 4096), (128, 4096), (192, 2048), (256, 2048), (384, 1024), (1024, 1024)):
        model = replace(facts["model"], hidden=hidden)
        plan = make_plan(recipe_with(), **facts | {"calibration": None, "model": model})
        assert plan.value("micro_tokens") == tokens


def test_without_measurements_nothing_is_predicted_about_time(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    plan = make_plan(recipe_with(), **facts | {"calibration": None, "probe": None})
    assert (plan.value("micro_tokens"), plan.choices["micro_tokens"].source) == (1024, "default")
    assert (plan.value("packing"), plan.choices["packing"].source) == ("padded", "default")
    assert set(plan.predictions()) == {"peak_memory_bytes"}
    assert "guessed" in plan.choices["peak_memory_bytes"].reason


def test_an_inexact_unpadded_path_is_not_used_even_when_asked_for(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    bad = ProbeFacts(
        packed_ok=False, reason="mpnet never calls the attention interface", error=None, samples=0
    )
    plan = make_plan(recipe_with(), **facts | {"probe": bad})
    assert plan.value("packing") == "padded" and bad.reason in plan.choices["packing"].reason
    assert plan.warnings == ()
    asked = make_plan(recipe_with(plan__packing="packed"), **facts | {"probe": bad})
    assert asked.value("packing") == "padded" and bad.reason in asked.warnings[0]


def test_padded_micro_batches_cost_their_padding(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    packed, padded = (make_plan(recipe_with(plan__packing=kind), **facts) for kind in ("packed", "padded"))
    assert packed.choices["padding_share"].value == 0
    assert 0 < padded.choices["padding_share"].value < 0.2
    ratio = padded.predictions()["train_seconds"] / packed.predictions()["train_seconds"]
    assert 1 < ratio < 1.25


def test_the_planner_shrinks_its_own_choice_until_it_fits(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    lasting = 900 * 1024**2 + 3 * 4 * 22_714_755
    small = replace(facts["hardware"], memory_bytes=lasting + 170_000 * 600)
    plan = make_plan(recipe_with(), **facts | {"hardware": small})
    choice = plan.choices["micro_tokens"]
    assert (choice.value, choice.source) == (512, "derived")
    assert "1,024 would need" in choice.reason
    assert plan.predictions()["peak_memory_bytes"] <= small.memory_bytes


def test_the_users_choice_is_refused_with_what_would_fit(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    recipe = recipe_with(plan__micro_tokens=65_536, plan__memory=2 * GIB)
    with pytest.raises(
        DoesNotFit, match=r"2\.0 GiB may be used \(plan\.memory\); plan\.micro_tokens=(\d+)"
    ) as caught:
        make_plan(recipe, **facts)
    assert caught.value.exit_code == 3
    fitting = int(re.findall(r"micro_tokens=(\d+)", str(caught.value))[0])
    plan = make_plan(recipe_with(plan__micro_tokens=fitting, plan__memory=2 * GIB), **facts)
    assert plan.predictions()["peak_memory_bytes"] <= 2 * GIB
    with pytest.raises(DoesNotFit):
        make_plan(recipe_with(plan__micro_tokens=2 * fitting, plan__memory=2 * GIB), **facts)


def test_when_nothing_fits_the_shortfall_is_named(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    with pytest.raises(
        DoesNotFit, match=r"[\d.]+ MiB too little, and no smaller micro-batch.*optimizer\.name=sgd"
    ):
        make_plan(recipe_with(plan__memory=GIB), **facts)


@pytest.mark.parametrize(
    ("base", "remedy"),
    [
        (None, r"train adapters \(model\.adapter=lora\)"),
        ("fp32", r"\(model\.adapter\.base=4bit\)"),
        ("4bit", r"\(model\.adapter\.targets\)"),
    ],
)
def test_adapters_are_named_where_nothing_fits(
    base: str | None, remedy: str, facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    with pytest.raises(DoesNotFit, match=f"too little.*{remedy}"):
        make_plan(recipe_with(plan__memory=GIB, model__adapter=base and AdapterSpec(base=base)), **facts)


def test_a_model_that_fits_only_in_parts_is_planned(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    large = replace(
        facts["model"],
        parameters=2 * 10**9,
        trainable_parameters=2 * 10**9,
        parameter_bytes=8 * 10**9,
        blocks_bytes=7 * 10**9,
        largest_block_bytes=2 * 10**8,
    )
    known = facts | {
        "model": large,
        "hardware": replace(facts["hardware"], device="cuda:0", memory_bytes=24 * GIB, ranks=4),
        "calibration": replace(facts["calibration"], resting_bytes=9 * 10**9),
    }
    with pytest.raises(DoesNotFit, match=r"plan\.mesh\.shard"):
        make_plan(recipe_with(), **known)
    plan = make_plan(recipe_with(plan__mesh=MeshSpec(shard=4)), **known)
    sizes = plan.choices["peak_memory_bytes"].value
    assert sizes["parameters"] == 2 * 10**9 and sizes["optimizer_state"] == 4 * 10**9
    assert sizes["gathered"] == 10**9 + 4 * 2 * 10**8
    assert "gathered" in plan.choices["peak_memory_bytes"].reason
    assert plan.predictions()["peak_memory_bytes"] < 24 * GIB


def test_a_longer_sample_is_alone_however_small_the_micro_batch(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    long = replace(facts["lengths"], longest=20_000)
    plan = make_plan(recipe_with(plan__micro_tokens=512), **facts | {"lengths": long})
    assert plan.value("peak_memory_bytes")["activations"] == 20_000 * 170_000


def test_measuring_that_went_higher_is_the_peak(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    high = replace(facts["calibration"], peak_bytes=3 * GIB)
    plan = make_plan(recipe_with(plan__memory=2 * GIB), **facts | {"calibration": high})
    assert plan.predictions()["peak_memory_bytes"] == 3 * GIB
    assert "measuring before the run reached more" in plan.choices["peak_memory_bytes"].reason


def test_warnings_are_collected(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    cut = replace(facts["lengths"], truncated_samples=1121)
    crowded = replace(facts["hardware"], threads=8)
    recipe = recipe_with(
        length="1 epochs", optimizer__base_batch=64, optimizer__lr_rule="sqrt", optimizer__betas_rule="sde"
    )
    warnings = make_plan(recipe, **facts | {"lengths": cut, "hardware": crowded}).warnings
    for part in (
        "only 44 updates",
        "0.4 is above 0.3",
        "1,121 samples (10.0%) are cut at 100",
        "8 threads share 2",
    ):
        assert any(part in warning for warning in warnings), part


def test_effective_numbers_are_in_the_plan(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    recipe = recipe_with(optimizer__base_batch=64, optimizer__lr_rule="sqrt", optimizer__betas_rule="sde")
    plan = make_plan(recipe, **facts)
    assert plan.value("learning_rate") == pytest.approx(1e-3)
    assert plan.value("betas") == pytest.approx([0.6, 0.996])
    assert plan.value("eps") == pytest.approx(5e-9)
    assert plan.choices["betas"].source == "derived" and "sde" in plan.choices["betas"].reason


def test_token_batches_and_an_exact_walk(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    recipe = recipe_with(batch__samples=None, batch__tokens=8704)
    assert "about 132 updates" in make_plan(recipe, **facts).choices["updates"].reason
    walked = Length(updates=134, samples=33_640, epochs=33_640 / 11_213, exact=True)
    plan = make_plan(recipe, **facts | {"work": Work(length=walked)})
    assert plan.value("updates") == 134
    assert "evaluate_seconds" not in plan.choices


def test_a_batch_larger_than_the_data_is_the_recipes_error(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    with pytest.raises(RecipeError, match=r"batch\.samples"):
        make_plan(recipe_with(batch__samples=20_000), **facts)


def test_same_facts_same_plan(facts: dict[str, Any], recipe_with: MakeRecipe) -> None:
    assert make_plan(recipe_with(), **facts) == make_plan(recipe_with(), **facts)


def test_replicas_are_told_and_their_memory_is_counted(
    facts: dict[str, Any], recipe_with: MakeRecipe
) -> None:
    recipe = recipe_with(sync__period=32, sync__replicas=4)
    plan, plain = make_plan(recipe, **facts), make_plan(recipe_with(), **facts)
    assert plan.value("replicas") == 4 and "replicas" not in plain.choices
    assert "1/4 of every batch" in plan.choices["replicas"].reason
    assert "after every 32 updates" in plan.choices["replicas"].reason
    more = plan.predictions()["peak_memory_bytes"] - plain.predictions()["peak_memory_bytes"]
    assert more == (4 + 3 * 3) * 4 * 22_714_755
    two_ranks = make_plan(recipe, **facts | {"hardware": replace(facts["hardware"], ranks=2)})
    fewer = plan.predictions()["peak_memory_bytes"] - two_ranks.predictions()["peak_memory_bytes"]
    assert fewer == 2 * 4 * 4 * 22_714_755

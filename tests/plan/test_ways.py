"""Ways to run the model: who decides, and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bigbatch.facts import CompileFacts, ForwardFacts, ProbeFacts
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.ways import ways

GOOD = ProbeFacts(packed_ok=True, reason="packed: 3e-7 of padded on 32 real samples", error=3e-7, samples=32)
BAD = ProbeFacts(packed_ok=False, reason="padded: packed logits off by 2e-3", error=2e-3, samples=32)


def recipe(**plan: Any) -> Any:
    return SimpleNamespace(
        plan=SimpleNamespace(**{"lazy": None, "attention": None, "products": None, "compile": "auto", **plan})
    )


def facts(**changes: Any) -> ForwardFacts:
    given = {"last_block": GOOD, "embedding_rows": 30_522, "drops_on_cpu": True, **changes}
    return ForwardFacts(**given)


def chosen(plan: dict[str, Any] | None = None, packing: str = "packed", **changes: Any) -> dict[str, Any]:
    found = ways(recipe(**(plan or {})), packing, facts(**changes))
    assert all(len(choice.reason) > 5 for choice in found.values())
    return {name: (choice.value, choice.source) for name, choice in found.items()}


def test_everything_lazy_where_it_is_exact() -> None:
    found = chosen(attention_seconds={"sdpa": 2e-4, "chunked": 1e-4})
    assert found == {
        "attention": ("chunked", "measured"),
        "last_block": ("read tokens", "measured"),
        "embedding_gradients": ("rows", "derived"),
        "dropout_masks": ("quick", "derived"),
        "products": ("torch", "derived"),
        "compile": ("off", "default"),
    }


def test_the_plain_way_on_request() -> None:
    found = chosen({"lazy": False})
    for name, value in (
        ("last_block", "all tokens"),
        ("embedding_gradients", "whole"),
        ("dropout_masks", "torch"),
    ):
        assert found[name] == (value, "user")
    assert ForwardPlan.of(ways(recipe(lazy=False), "padded", facts())) == ForwardPlan()


def test_a_last_block_that_is_not_exact_runs_in_full_and_says_why() -> None:
    found = ways(recipe(), "packed", facts(last_block=BAD))["last_block"]
    assert (found.value, found.source, found.reason) == ("all tokens", "measured", BAD.reason)
    assert ways(recipe(), "padded", facts(last_block=None))["last_block"].value == "all tokens"


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ({"sdpa": 1.0, "chunked": 1.1}, "chunked"),  # within the noise: the one that is expected to be faster
        ({"sdpa": 1.0, "chunked": 1.5}, "sdpa"),
        ({"sdpa": 1.0, "flash": 0.3, "flex": 0.31}, "flash"),
        ({"sdpa": 1.0, "flex": 0.5}, "flex"),
    ],
)
def test_attention_as_measured(tried: dict[str, float], expected: str) -> None:
    assert chosen(attention_seconds=tried)["attention"] == (expected, "measured")


def test_attention_that_was_asked_for_is_used_unless_it_fails() -> None:
    assert chosen({"attention": "flash"}, attention_seconds={"sdpa": 1.0, "flash": 2.0})["attention"] == (
        "flash",
        "user",
    )
    failed = ways(recipe(attention="flash"), "packed", facts(attention_failed={"flash": "no CUDA"}))[
        "attention"
    ]
    assert failed.value == "sdpa" and "flash: no CUDA" in failed.reason


def test_compiled_when_it_pays() -> None:
    pays = CompileFacts(ok=True, reason="", seconds=20, eager_seconds_per_token=2e-4, seconds_per_token=1e-4)
    found = ways(recipe(), "packed", facts(compiled=pays))["compile"]
    assert (found.value, found.source) == (
        "blocks",
        "measured",
    ) and "10,000 tokens/s compiled" in found.reason
    assert ways(recipe(compile="whole"), "packed", facts(compiled=pays))["compile"].value == "whole"
    late = CompileFacts(ok=False, reason="compiling took 20 s and would save 3 s")
    found = ways(recipe(compile="blocks"), "packed", facts(compiled=late))["compile"]
    assert (found.value, found.reason) == ("off", late.reason)
    assert ways(recipe(compile="off"), "packed", facts())["compile"].source == "user"


def test_plans_of_earlier_versions_mean_the_plain_way() -> None:
    assert ForwardPlan.of({}) == ForwardPlan()
    assert ways(recipe(), "packed", None) == {}


@pytest.mark.parametrize(
    ("plan", "speed", "expected"),
    [
        ({}, 2.1, ("onednn", "measured")),
        ({}, 1.1, ("torch", "measured")),
        ({}, 0.0, ("torch", "derived")),
        ({}, None, ("torch", "derived")),
        ({"products": "onednn"}, None, ("torch", "derived")),
        ({"products": "torch"}, 2.1, ("torch", "user")),
        ({"products": "onednn"}, 1.0, ("onednn", "user")),
    ],
)
def test_matrix_products_go_to_the_library_that_is_clearly_faster(plan, speed, expected) -> None:
    assert chosen(plan, onednn_speed=speed)["products"] == expected


def test_what_is_compiled_multiplies_its_own_way() -> None:
    compiled = CompileFacts(
        ok=True, reason="", seconds=1, eager_seconds_per_token=2e-4, seconds_per_token=1e-4
    )
    assert chosen(onednn_speed=2.1, compiled=compiled)["products"] == ("torch", "derived")

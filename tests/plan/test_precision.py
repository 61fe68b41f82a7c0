"""The choice of a number format: a pure function of what was asked and measured."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from bigbatch.plan.precision import (
    ACCEPTED_ERROR,
    ModuleError,
    PrecisionFacts,
    fastest,
    precision,
    raised,
    wanted,
)


def recipe(name: str | None, keep: tuple[str, ...] = ()) -> Any:
    spec = SimpleNamespace(name=name, keep_fp32=list(keep), allow_low=[])
    return SimpleNamespace(plan=SimpleNamespace(precision=spec))


def facts(seconds: dict[str, float], **more: Any) -> PrecisionFacts:
    measured = {"ours": 0.01, "plain": 0.012, "samples": 8, **more}
    return PrecisionFacts(product_seconds=seconds, **measured)


GPU = {"fp32": 8.0, "tf32": 2.0, "bf16": 1.0, "fp16": 1.0}
THIS_CPU = {"fp32": 1.0, "bf16": 34.0}


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (GPU, "bf16"),
        ({"fp32": 8.0, "tf32": 2.0, "fp16": 1.0}, "fp16"),
        ({"fp32": 8.0, "tf32": 1.0, "bf16": 1.0}, "tf32"),
        (THIS_CPU, "fp32"),
        ({"fp32": 1.1, "bf16": 1.0}, "fp32"),
        ({"fp32": 1.0}, "fp32"),
        ({}, "fp32"),
    ],
    ids=[
        "gpu",
        "no bf16",
        "as fast as the safer",
        "emulated",
        "not worth it",
        "nothing else",
        "nothing measured",
    ],
)
def test_the_fastest_that_is_worth_it_the_safer_first(seconds: dict[str, float], name: str) -> None:
    assert fastest(facts(seconds)) == name


def test_auto_on_a_machine_that_emulates_bf16_ends_at_fp32_and_says_what_was_measured() -> None:
    choices, warnings = precision(recipe("auto"), facts(THIS_CPU, ours=None, plain=None))
    assert set(choices) == {"precision"} and warnings == ()
    chosen = choices["precision"]
    assert (chosen.value, chosen.source) == ("fp32", "measured")
    assert chosen.reason == "auto: the same matrix product takes 34.0 times as long in bf16 as in fp32 here"


def test_auto_on_a_fast_gpu() -> None:
    choices, _ = precision(recipe("auto"), facts(GPU))
    assert choices["precision"].value == "bf16" and choices["precision"].source == "measured"
    assert "8.0 times as fast in bf16" in choices["precision"].reason
    assert "error against fp32 1.0e-02 on 8 real samples (plain path: 1.2e-02)" in choices["precision"].reason
    assert choices["keep_fp32"].value == []


@pytest.mark.parametrize("name", [None, "fp32"])
def test_fp32_is_the_default_and_needs_no_measurement(name: str | None) -> None:
    choices, warnings = precision(recipe(name), None)
    assert choices["precision"].value == "fp32" and not warnings and "keep_fp32" not in choices
    assert choices["precision"].source == ("default" if name is None else "user")


def test_what_was_asked_for_is_taken_with_a_warning_where_it_is_slow() -> None:
    choices, warnings = precision(recipe("bf16", ("*.layer.11.*",)), facts(THIS_CPU))
    assert (choices["precision"].value, choices["precision"].source) == ("bf16", "user")
    assert (choices["keep_fp32"].value, choices["keep_fp32"].source) == (["*.layer.11.*"], "user")
    assert warnings == (
        "plan.precision: the same matrix product takes 34.0 times as long in bf16 as in fp32 here; "
        "plan.precision=fp32 is faster and more exact",
    )
    assert precision(recipe("bf16"), facts(GPU))[1] == ()


@pytest.mark.parametrize(
    ("ours", "words"),
    [(0.0181, "allowed is 1.5 times that"), (math.inf, "not finite")],
    ids=["worse", "broken"],
)
@pytest.mark.parametrize("asked", ["bf16", "auto"])
def test_a_format_whose_error_is_too_large_falls_back_to_fp32(asked: str, ours: float, words: str) -> None:
    choices, warnings = precision(recipe(asked), facts(GPU, ours=ours))
    assert (choices["precision"].value, choices["precision"].source) == ("fp32", "measured")
    assert words in choices["precision"].reason and set(choices) == {"precision"}
    assert bool(warnings) == (asked == "bf16") and all("bf16 was asked for" in line for line in warnings)
    assert precision(recipe(asked), facts(GPU, ours=0.0179))[0]["precision"].value == "bf16"


def test_greedy_takes_the_most_accuracy_per_cost_first() -> None:
    parts = [
        ModuleError(module="a", error=0.03, cost=0.30),
        ModuleError(module="b", error=0.02, cost=0.05),
        ModuleError(module="c", error=0.01, cost=0.30),
        ModuleError(module="d", error=0.0, cost=0.35),
    ]
    assert raised(parts, 1.0) == ([], pytest.approx(math.sqrt(14) / 100))
    chosen, left = raised(parts, 0.035)
    assert [part.module for part in chosen] == ["b"] and left == pytest.approx(math.sqrt(10) / 100)
    chosen, left = raised(parts, 0.02)
    assert [part.module for part in chosen] == ["b", "a"] and left == pytest.approx(0.01)
    chosen, left = raised(parts, 0.0)
    assert [part.module for part in chosen] == ["b", "a", "c"] and left == 0.0
    assert raised(list(reversed(parts)), 0.02)[0] == raised(parts, 0.02)[0], "the order does not matter"


def test_auto_raises_the_part_that_is_to_blame_with_its_reason() -> None:
    modules = [
        ModuleError(module=f"layer.{i}", error=0.05 if i == 3 else 0.004, cost=1 / 6) for i in range(6)
    ]
    kept = precision(recipe("auto", ("own",)), facts(GPU, modules=tuple(modules)))[0]["keep_fp32"]
    assert kept.value == ["own", "layer.3", "layer.3.*"] and kept.source == "measured"
    assert "layer.3 (error 5.0e-02, cost 17%)" in kept.reason and "8.9e-03 is left" in kept.reason


def test_auto_takes_fp32_when_most_of_the_model_would_need_it() -> None:
    modules = tuple(ModuleError(module=f"layer.{i}", error=0.05, cost=1 / 6) for i in range(6))
    choices, _ = precision(recipe("auto"), facts(GPU, modules=modules))
    assert choices["precision"].value == "fp32" and "100% of the model in fp32" in choices["precision"].reason
    assert ACCEPTED_ERROR < 0.05


def test_what_is_looked_at() -> None:
    assert wanted(recipe(None), None) == "fp32" and wanted(recipe("fp16"), None) == "fp16"
    assert wanted(recipe("auto"), facts(GPU)) == "bf16" and wanted(recipe("auto"), None) == "fp32"

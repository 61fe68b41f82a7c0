"""The plan as people read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bigbatch.facts import CalibrationFacts, Choice, HardwareFacts, LengthFacts, ModelFacts, ProbeFacts
from bigbatch.plan.explain import brief, explain, shown
from bigbatch.plan.frozen import Plan
from bigbatch.plan.planner import make_plan
from bigbatch.plan.timing import Work


def test_every_choice_has_an_aligned_line(
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts,
    calibration: CalibrationFacts,
    recipe_with: Callable[..., Any],
) -> None:
    plan = make_plan(
        recipe_with(length="1 epochs"),
        hardware,
        model,
        lengths,
        probe,
        calibration,
        work=Work(validation_tokens=5000),
    )
    lines = explain(plan)
    assert len(lines) == len(plan.choices) + 1
    starts = {line.index(choice.reason) for line, choice in zip(lines, plan.choices.values(), strict=False)}
    assert len(starts) == 1
    text = "\n".join(lines)
    for part in (
        "micro-batch",
        "1,024 tokens",
        "44 updates = 11,264 samples",
        "1.3 GiB",
        "measured",
        "no accelerator",
    ):
        assert part in text
    assert lines[-1].startswith("warning: only 44 updates")


def test_values_as_read() -> None:
    def choice(value: object, unit: str | None = None, prediction: float | None = None) -> Choice:
        return Choice(value=value, reason="", source="derived", unit=unit, prediction=prediction)

    assert shown("micro_tokens", choice(65536, "tokens")) == "65,536 tokens"
    assert shown("padding_share", choice(0.0132)) == "1.3 %"
    assert shown("peak_memory_bytes", choice({}, "bytes", 3 * 1024**3)) == "3.0 GiB"
    assert shown("betas", choice([0.6, 0.996])) == "0.6, 0.996"
    assert shown("learning_rate", choice(5e-4)) == "0.0005"


def test_a_newcomer_reads_eight_lines(
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts,
    calibration: CalibrationFacts,
    recipe_with: Callable[..., Any],
) -> None:
    plan = make_plan(
        recipe_with(length="1 epochs"), hardware, model, lengths, probe, calibration,
        work=Work(validation_tokens=5000),
    )  # fmt: skip
    facts = [("task", "classify, 3 classes"), ("rows", "11,213 train"), ("model", "m, 22 parameters")]
    lines = brief(plan, facts, ["one row is odd"])
    told = [line for line in lines if not line.startswith(("warning: ", "note: "))]
    assert [line.split("  ")[0] for line in told] == [
        "task", "rows", "model", "length", "learning rate", "training time", "peak memory", "machine",
    ]  # fmt: skip
    assert "256 samples an update; 44 updates" in told[3] and "of evaluation" in told[5] and "GiB" in told[6]
    assert "micro-batches of 1,024 tokens" in told[7]
    assert lines[-1] == "note: one row is odd" and any(line.startswith("warning: only 44") for line in lines)


def test_lines_end_where_the_terminal_does(
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts,
    calibration: CalibrationFacts,
    recipe_with: Callable[..., Any],
) -> None:
    plan = make_plan(recipe_with(length="1 epochs"), hardware, model, lengths, probe, calibration)
    for width in (60, 80, 100):
        lines = explain(plan, ["a note that is much longer than a narrow terminal is wide " * 3], width)
        assert all(len(line) <= width for line in lines if " " in line.strip())
        words = " ".join(" ".join(lines).split())
        assert all(" ".join(choice.reason.split()) in words for choice in plan.choices.values())


def test_who_said_so_is_called_as_in_plan_json(
    hardware: HardwareFacts, model: ModelFacts, lengths: LengthFacts, recipe_with: Callable[..., Any]
) -> None:
    plan = make_plan(recipe_with(length="1 epochs"), hardware, model, lengths)
    for line, (name, entry) in zip(explain(plan), plan.to_json().items(), strict=False):
        if name != "warnings":
            assert f"  {entry['source']} " in line


def test_a_rate_that_was_left_to_the_run_says_why_it_is_this_one() -> None:
    def choice(value: object, reason: str) -> Choice:
        return Choice(value=value, reason=reason, source="derived")

    own = {"learning_rate": choice(3e-4, "lr 0.0003 as it is"), "micro_tokens": choice(1024, "")}
    assert "0.0003 (lr 0.0003 as it is)" in "\n".join(brief(Plan(choices=own), []))
    lines = brief(Plan(choices={**own, "auto_lr": choice(3e-4, "usual for this width")}), [])
    assert "0.0003 (usual for this width)" in "\n".join(lines)

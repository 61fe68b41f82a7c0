"""Compile when it pays for itself: what it would save over the run against what it takes."""

from __future__ import annotations

import time
from dataclasses import replace

from bigbatch.build.compare import compared, probe_samples
from bigbatch.build.measured import Budget, Measured
from bigbatch.build.runners import open_runner
from bigbatch.facts import CalibrationFacts, CompileFacts
from bigbatch.plan.forward import ForwardPlan
from bigbatch.probe.calibrate import compare, compared_tokens
from bigbatch.tasks.stand_in import measured_loss
from bigbatch.units import show_seconds

_MAY_SAVE = 0.4
"""Share of the time that compiling may save at best on an accelerator."""
_NOT_ON_A_CPU = (
    "only plan.compile=blocks compiles on a CPU: it saved 5 % where it was measured, for 10 to 50 s"
)
_AT_LEAST_SECONDS = 30.0
"""Compiling takes about this long, whatever the model: its blocks share their code."""


def try_compiled(
    on: Measured, how: ForwardPlan, calibration: CalibrationFacts, budget: Budget
) -> CompileFacts | None:
    """Compile and measure, unless the run is too short for it to pay.

    Args:
        on: model, data and recipe.
        how: the way that training would run without compiling.
        calibration: its seconds per token: what a run of this length takes now.
        budget: how long measuring may still take.

    Returns:
        What was found; None when the recipe wants nothing compiled.
    """
    wish = on.recipe.plan.compile
    if wish == "off":
        return None
    train_seconds = on.length.samples * on.lengths.tokens / on.lengths.samples * calibration.seconds_per_token
    if wish == "auto":
        if not on.hardware.device.startswith("cuda"):
            return CompileFacts(
                ok=False, reason=_NOT_ON_A_CPU if on.hardware.device == "cpu" else "only on CUDA"
            )
        refused = budget.refusal(_AT_LEAST_SECONDS, calibration.seconds_per_token, may_save=_MAY_SAVE)
        if refused:
            return CompileFacts(ok=False, reason=refused)
    on.say("compiling the blocks: does it pay?")
    way = replace(how, compile="blocks" if wish == "auto" else wish)
    found = _measured(on, how, way)
    if not found.ok or wish != "auto":
        return found
    saved = train_seconds * (1 - found.seconds_per_token / found.eager_seconds_per_token)
    if saved > found.seconds:
        return found
    why = (
        f"compiling took {show_seconds(found.seconds)} and would save {show_seconds(max(0.0, saved))} of training "
        f"({1 / found.seconds_per_token:,.0f} tokens/s against {1 / found.eager_seconds_per_token:,.0f})"
    )
    return replace(found, ok=False, reason=why)


def _measured(on: Measured, how: ForwardPlan, way: ForwardPlan) -> CompileFacts:
    started = time.perf_counter()
    try:
        probe = compared(on.ready, way, probe_samples(on.batches))
    except Exception as error:  # no compiler, or code that it cannot take: eager remains
        return CompileFacts(ok=False, reason=_first_line(error))
    if not probe.packed_ok and way.packing == "packed":
        return CompileFacts(ok=False, reason=f"compiled: {probe.reason}")
    pieces = on.pieces(how.packing, on.recipe.plan.micro_tokens or compared_tokens(on.hardware.device))
    middle = [pieces[len(pieces) // 2]]
    _, failed = compare(
        {"compiled": lambda: open_runner(on.ready, way)},
        measured_loss(on.ready.task),
        on.ready.module,
        middle,
    )
    if failed:
        return CompileFacts(ok=False, reason=failed["compiled"])
    seconds = time.perf_counter() - started
    both = {"eager": lambda: open_runner(on.ready, how), "compiled": lambda: open_runner(on.ready, way)}
    tried, _ = compare(both, measured_loss(on.ready.task), on.ready.module, middle)
    return CompileFacts(
        ok=True,
        reason="",
        seconds=seconds,
        eager_seconds_per_token=tried["eager"],
        seconds_per_token=tried["compiled"],
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

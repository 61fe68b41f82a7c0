"""From `plan.precision` to a casting: measure the formats, compare them on real samples, audit the one taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bigbatch.build.compare import errors_of, probe_samples
from bigbatch.build.measured import Measured
from bigbatch.build.runners import open_runner, policy_for
from bigbatch.errors import Problem, RecipeError
from bigbatch.facts import Choice
from bigbatch.graph.casting import Casting
from bigbatch.graph.policy import only, units_of
from bigbatch.model.logits import comparable
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.frozen import Plan
from bigbatch.plan.precision import ModuleError, PrecisionFacts, is_low, wanted
from bigbatch.probe.audit import Audit, audit
from bigbatch.probe.precision import error_of
from bigbatch.probe.speed import product_seconds
from bigbatch.samples import MicroBatch
from bigbatch.step.loss_scale import LossScale
from bigbatch.tasks.ready import Ready
from bigbatch.tasks.stand_in import measured_loss

SAMPLES = 8
"""Real samples that formats are compared on: few, since a CPU emulates them slowly."""
_CANDIDATES = {"cuda": ("tf32", "bf16", "fp16"), "mps": ("bf16", "fp16"), "cpu": ("bf16",)}
"""What `auto` measures on a device."""
AUDITED = "bf16"
"""What an audit that was asked for looks at when the plan computes in fp32."""
AUDIT_SAMPLES = 32
"""Of an audit that was asked for; the short one before a run takes `SAMPLES`."""


def precision_facts(on: Measured, how: ForwardPlan) -> PrecisionFacts | None:
    """Measure what `plan.precision` asks about; None when it asks for fp32.

    Args:
        on: model, data and recipe.
        how: the way in which training will run the model, in fp32.

    Raises:
        RecipeError: the format that was asked for cannot run here, or a pattern matches nothing.
    """
    spec = on.recipe.plan.precision
    if spec.name in (None, "fp32", "tf32") and (spec.keep_fp32 or spec.allow_low):
        _refuse(
            f"{spec.name or 'fp32'} has no patterns: it is the same in the whole model; bf16, fp16 and auto do"
        )
    how = replace(how, keep_fp32=tuple(spec.keep_fp32), allow_low=tuple(spec.allow_low))
    policy_for(on.ready, how)
    if spec.name in (None, "fp32"):
        return None
    device = next(on.ready.module.parameters()).device
    formats = _CANDIDATES.get(device.type, ()) if spec.name == "auto" else (spec.name,)
    seconds, unavailable = product_seconds(device, formats)
    if spec.name in unavailable:
        _refuse(f"{spec.name} was asked for, but {unavailable[spec.name]}")
    facts = PrecisionFacts(product_seconds=seconds, unavailable=unavailable)
    name: Any = wanted(on.recipe, facts)
    if not is_low(name):
        return facts
    ratio = seconds.get(name, 0.0) / seconds["fp32"]
    slow = f"; it is about {ratio:.0f} times slower than fp32 here, so this takes long" if ratio > 2 else ""
    on.say(f"probing: is {name} as accurate as it should be on these samples?{slow}")
    how, pieces = replace(how, precision=name), probe_samples(on.batches, SAMPLES)
    modules = _module_errors(on.ready, how, pieces) if spec.name == "auto" else ()
    return replace(_compared(on, facts, how, pieces), modules=tuple(modules))


def loss_scale_for(plan: Plan) -> LossScale:
    """A loss scale for fp16, whose gradients underflow without one."""
    chosen = plan.choices.get("precision")
    return LossScale() if chosen is not None and chosen.value == "fp16" else LossScale.none()


def audited(on: Measured, plan: Plan, *, asked: bool) -> tuple[Plan, Audit | None]:
    """The audit of the plan's format, and the plan with its verdict; None in fp32 unless it was asked for.

    Args:
        on: model, data and recipe; left as they were.
        plan: with its `precision`.
        asked: `bigbatch plan --audit`: more samples, and bf16 when the plan computes in fp32.
    """
    how = ForwardPlan.of(plan.choices)
    low = is_low(how.precision)
    if not (low or asked):
        return plan, None
    way = ForwardPlan(
        precision=how.precision if low else AUDITED, keep_fp32=how.keep_fp32, allow_low=how.allow_low
    )
    found = _audit(on, way, AUDIT_SAMPLES if asked else SAMPLES)
    doubtful = [block.block for block in found.blocks if not block.fine]
    choice = Choice(
        value=f"doubtful in {', '.join(doubtful)}" if doubtful else f"{found.format} is fine",
        reason=f"on {found.samples} real samples: {found.verdict}",
        source="measured",
    )
    warnings = (*plan.warnings, found.verdict) if doubtful and low else plan.warnings
    return replace(plan, choices={**plan.choices, "precision_audit": choice}, warnings=warnings), found


def _audit(on: Measured, way: ForwardPlan, samples: int) -> Audit:
    """Both passes are padded and plain but for the format: what is judged is the format."""
    ready, pieces = on.ready, probe_samples(on.batches, samples)
    reference, forward = open_runner(ready, ForwardPlan()), open_runner(ready, way)
    try:
        return audit(
            reference,
            forward,
            way.precision,
            policy_for(ready, way),
            ready.anatomy,
            measured_loss(ready.task),
            pieces,
            on.new_optimizer,
        )
    finally:
        forward.close()
        reference.close()


def _compared(
    on: Measured, facts: PrecisionFacts, how: ForwardPlan, pieces: Sequence[MicroBatch]
) -> PrecisionFacts:
    """Our path and the plain one in the format, against fp32."""
    errors = errors_of(on.ready, how, pieces)
    samples = sum(len(piece.lengths_B) for piece in pieces)
    return replace(facts, ours=errors.ours, plain=errors.plain, samples=samples)


def _module_errors(ready: Ready, how: ForwardPlan, pieces: Sequence[MicroBatch]) -> list[ModuleError]:
    """Error of each part when it alone is computed in the format, and its share of the multiplications."""
    units, policy = units_of(ready.module, ready.anatomy), policy_for(ready, how)
    total = sum(unit.products for unit in units) or 1
    reference = open_runner(ready, ForwardPlan())
    found = []
    for unit in units:
        one = only(policy, unit)
        if not any(one.values()):
            continue  # fp32 by its role
        forward = Casting(ready.module, one, how.precision).run(open_runner(ready, ForwardPlan()))
        try:
            error = error_of(comparable(forward), comparable(reference), pieces, span=forward.span)
        finally:
            forward.close()
        found.append(ModuleError(module=unit.name, error=error, cost=unit.products / total))
    return found


def _refuse(what: str) -> None:
    raise RecipeError([Problem(where="recipe", key="plan.precision", what=what)])

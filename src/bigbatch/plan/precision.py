"""Which number format, and what stays fp32 all the same. A pure function of what was asked for and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bigbatch.facts import Choice

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Format:
    """A floating-point format, as the audit and the plan need it."""

    name: str
    value_bytes: int
    """Bytes of an activation, and of the copy of a weight that it is multiplied with."""
    eps: float
    """Distance from 1 to the next number: half of it is the largest relative rounding error."""
    largest: float
    smallest: float
    """Smallest number above 0, subnormal ones included."""


FORMATS = {
    one.name: one
    for one in (
        Format(name="fp32", value_bytes=4, eps=2.0**-23, largest=(2 - 2.0**-23) * 2.0**127, smallest=2.0**-149),
        Format(name="tf32", value_bytes=4, eps=2.0**-10, largest=(2 - 2.0**-10) * 2.0**127, smallest=2.0**-136),
        Format(name="bf16", value_bytes=2, eps=2.0**-7, largest=(2 - 2.0**-7) * 2.0**127, smallest=2.0**-133),
        Format(name="fp16", value_bytes=2, eps=2.0**-10, largest=65504.0, smallest=2.0**-24),
        # e4m3, but every tensor has a scale and what comes out of a product is bf16: bf16's range.
        Format(name="fp8", value_bytes=2, eps=2.0**-3, largest=(2 - 2.0**-7) * 2.0**127, smallest=2.0**-133),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModuleError:
    """What one part of the model contributes to the error of a number format."""

    module: str
    """Dotted name; `bert.encoder.layer.0`."""
    error: float
    """Relative gradient error against fp32 when this part alone is computed in the format."""
    cost: float
    """Its share of the model's multiplications, 0 to 1: what keeping it in fp32 gives up."""


@dataclass(frozen=True, kw_only=True)
class PrecisionFacts:
    """Number formats as measured on this machine, with this model and a few real samples."""

    product_seconds: Mapping[str, float] = field(default_factory=dict)
    """Format -> seconds of the same matrix product, at best; formats that cannot run are not here."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Format -> why it cannot run here."""
    modules: tuple[ModuleError, ...] = ()
    """Of the format that was looked at; empty when nobody asked."""
    ours: float | None = None
    """Error against fp32 of logits or gradient, the larger in proportion to `plain`; None: not measured."""
    plain: float | None = None
    """The same error of the plain path: padded, torch's own autocast, same format."""
    samples: int = 0


WORTH = 1.15
"""`auto` takes a format whose matrix product is at least this many times as fast as fp32's."""
PLAIN_RATIO = 1.5
"""Largest error against fp32, in multiples of the plain path's in the same format (docs/guarantees.md)."""
ACCEPTED_ERROR = 0.02
"""Largest relative gradient error that `auto` accepts before it raises parts to fp32. bf16 has 1 to 1.5 % in BERT;
the noise between two batches of 256 is some ten times that."""
MOST_RAISED = 0.5
"""Share of the multiplications that `auto` raises at most; a model that needs more is computed in fp32."""
_BY_ACCURACY = ("tf32", "bf16", "fp16")
"""What `auto` may take, the safer first: fp16 needs a loss scale, fp8 is never taken without being asked for."""


def is_low(name: str) -> bool:
    """Whether a format is anything but fp32."""
    return name != "fp32"


def fastest(facts: PrecisionFacts) -> str:
    """The format that `auto` would take for its speed; fp32 when none is worth it."""
    seconds = facts.product_seconds
    known = [name for name in _BY_ACCURACY if name in seconds and "fp32" in seconds]
    worth = [name for name in known if seconds["fp32"] >= WORTH * seconds[name]]
    return min(
        worth, key=lambda name: (round(seconds[name] / seconds["fp32"], 1), known.index(name)), default="fp32"
    )


def wanted(recipe: Recipe, facts: PrecisionFacts | None) -> str:
    """The format to look at: the one asked for, or the fastest."""
    asked = recipe.plan.precision.name
    if asked == "auto":
        return fastest(facts) if facts is not None else "fp32"
    return asked or "fp32"


def raised(
    modules: Sequence[ModuleError], accepted: float = ACCEPTED_ERROR
) -> tuple[list[ModuleError], float]:
    """Parts to keep in fp32 so that the error is accepted: greedily, the most accuracy per cost first.

    Errors of parts are nearly independent, so their squares add. Each step raises the part with the largest
    error^2 / cost.

    Returns:
        The parts, in the order in which they were raised, and the error that is left.
    """
    left = [one for one in modules if one.error > 0]
    chosen: list[ModuleError] = []
    while left and _total(left) > accepted:
        best = max(left, key=lambda one: (one.error**2 / max(one.cost, 1e-9), one.module))
        left.remove(best)
        chosen.append(best)
    return chosen, _total(left)


def _total(modules: Sequence[ModuleError]) -> float:
    return math.sqrt(sum(one.error**2 for one in modules))


def precision(recipe: Recipe, facts: PrecisionFacts | None) -> tuple[dict[str, Choice], tuple[str, ...]]:
    """The choices `precision` and, for a low one, `keep_fp32`; and what the user should read before the run."""
    asked, name = recipe.plan.precision.name, wanted(recipe, facts)
    if asked in (None, "fp32") or facts is None:
        why = "the reference; plan.precision=auto measures whether another is faster"
        plain = Choice(value="fp32", reason=why, source="default")
        return {"precision": plain if asked is None else _asked("fp32")}, ()
    if not is_low(name):
        return {"precision": Choice(value="fp32", reason=f"auto: {_slow(facts)}", source="measured")}, ()
    refused = _refused(facts)
    if refused:
        why = f"fp32 instead of {name}: {refused}"
        warning = (f"plan.precision: {name} was asked for, but {why}",) if asked != "auto" else ()
        return {"precision": Choice(value="fp32", reason=why, source="measured")}, warning
    if asked != "auto":
        reason = f"asked for by plan.precision; {_measured(facts)}"
        choice = Choice(value=name, reason=reason, source="user", prediction=facts.ours)
        return {"precision": choice, "keep_fp32": _patterns(recipe), **_allowed(recipe)}, _warnings(
            name, facts
        )
    parts, error = raised(facts.modules)
    cost = sum(part.cost for part in parts)
    if cost > MOST_RAISED:
        why = f"auto: {name} would need {cost:.0%} of the model in fp32 to stay below {ACCEPTED_ERROR:.0%} error"
        return {"precision": Choice(value="fp32", reason=why, source="measured")}, ()
    reason = f"auto: {_speed(name, facts)}; {_measured(facts)}"
    choice = Choice(value=name, reason=reason, source="measured", prediction=facts.ours)
    return {"precision": choice, "keep_fp32": _kept(recipe, parts, error), **_allowed(recipe)}, ()


def _asked(value: str) -> Choice:
    return Choice(value=value, reason="asked for by plan.precision", source="user")


def _speed(name: str, facts: PrecisionFacts) -> str:
    ratio = facts.product_seconds["fp32"] / facts.product_seconds[name]
    if ratio >= 1:
        return f"the same matrix product is {ratio:.1f} times as fast in {name} as in fp32 here"
    return f"the same matrix product takes {1 / ratio:.1f} times as long in {name} as in fp32 here"


def _slow(facts: PrecisionFacts) -> str:
    """Why nothing but fp32 is worth it."""
    others = [name for name in _BY_ACCURACY if name in facts.product_seconds]
    if not others or "fp32" not in facts.product_seconds:
        return "; ".join(facts.unavailable.values()) or "no other format runs here"
    return "; ".join(_speed(name, facts) for name in others)


def _refused(facts: PrecisionFacts) -> str:
    """Why the measured error forbids the format; empty when it does not."""
    if facts.ours is None or facts.plain is None:
        return ""
    if not math.isfinite(facts.ours):
        return f"logits or gradient of {facts.samples} real samples are not finite in it"
    if facts.ours > PLAIN_RATIO * facts.plain:
        return (
            f"its error against fp32 is {facts.ours:.1e} on {facts.samples} real samples, the plain path's is "
            f"{facts.plain:.1e}; allowed is {PLAIN_RATIO:g} times that"
        )
    return ""


def _measured(facts: PrecisionFacts) -> str:
    if facts.ours is None or facts.plain is None:
        return "its error was not measured"
    return (
        f"error against fp32 {facts.ours:.1e} on {facts.samples} real samples (plain path: {facts.plain:.1e})"
    )


def _warnings(name: str, facts: PrecisionFacts) -> tuple[str, ...]:
    """A format that was asked for although it is slow."""
    seconds = facts.product_seconds
    if name in seconds and "fp32" in seconds and seconds[name] > seconds["fp32"]:
        return (f"plan.precision: {_speed(name, facts)}; plan.precision=fp32 is faster and more exact",)
    return ()


_BY_ROLE = "embeddings, norms, head, logits and loss by role"


def _allowed(recipe: Recipe) -> dict[str, Choice]:
    patterns = list(recipe.plan.precision.allow_low)
    reason = "although their role is fp32: asked for by plan.precision.allow_low"
    return {"allow_low": Choice(value=patterns, reason=reason, source="user")} if patterns else {}


def _patterns(recipe: Recipe) -> Choice:
    patterns = list(recipe.plan.precision.keep_fp32)
    source = "user" if patterns else "default"
    return Choice(
        value=patterns, reason=_BY_ROLE + (" and these patterns" if patterns else ""), source=source
    )


def _kept(recipe: Recipe, parts: Sequence[ModuleError], error: float) -> Choice:
    """What `auto` raised, each with its reason."""
    patterns = [*recipe.plan.precision.keep_fp32]
    if not parts:
        why = f"{_BY_ROLE}; the parts' errors together are {error:.1e}, {ACCEPTED_ERROR:.0e} is accepted"
        return Choice(value=patterns, reason=why, source="measured")
    told = ", ".join(f"{part.module} (error {part.error:.1e}, cost {part.cost:.0%})" for part in parts)
    why = f"{_BY_ROLE}; raised, most accuracy per cost first: {told}; {error:.1e} is left"
    names = [name for part in parts for name in (part.module, f"{part.module}.*")]
    return Choice(value=[*patterns, *names], reason=why, source="measured")

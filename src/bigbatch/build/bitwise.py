"""`plan.reproducible: bitwise`: nothing that could change a bit is measured, or depends on the number of ranks."""

from __future__ import annotations

from bigbatch.model.patterns import Pattern
from bigbatch.plan.frozen import Plan
from bigbatch.recipe.schema import Recipe

_FIXED: dict[str, object] = {
    "micro_tokens": 1024,
    "attention": "sdpa",
    "compile": "off",
    "products": "torch",
    "threads": 1,
    "recompute": "none",
}
"""Taken where the recipe says nothing."""
_WHY = "fixed: plan.reproducible is bitwise"


def is_bitwise(recipe: Recipe) -> bool:
    """Whether the same bits are wanted on any number of ranks."""
    return recipe.plan.reproducible == "bitwise"


def fixed(recipe: Recipe) -> Recipe:
    """The recipe with every choice made that would otherwise be measured."""
    if not is_bitwise(recipe):
        return recipe
    plan = recipe.plan.model_copy(update=_open_keys(recipe))
    return recipe.model_copy(update={"plan": plan})


def said(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with the reason of what was fixed."""
    for name in _open_keys(recipe) if is_bitwise(recipe) else ():
        if name in plan.choices:
            plan = plan.changed(name, plan.value(name), _WHY)
    return plan


def _open_keys(recipe: Recipe) -> dict[str, object]:
    """What the user left open; an automatic compilation is open too."""
    attention = {} if Pattern.of(recipe.model.attention) is None else {"attention": "chunked"}
    fixed = {**_FIXED, **attention}
    return {name: value for name, value in fixed.items() if getattr(recipe.plan, name) in (None, "auto")}

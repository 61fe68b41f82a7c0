"""The choices of how a micro-batch runs through the model, each with its reason. They change time and memory only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigbatch.facts import Choice, CompileFacts, ForwardFacts, ProbeFacts
from bigbatch.units import show_seconds

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

CLEARLY_FASTER = 0.8
"""A kernel replaces the one that is expected to be fastest when it needs at most this share of its time. Kernels draw
other dropout masks, so noise must not choose between them."""
ONEDNN_WORTH = 1.2
"""oneDNN is taken where it is so many times as fast: below that, noise could choose."""
_EXPECTED = ("flash", "chunked", "sdpa", "flex")
"""Of the kernels that a device has, the first was fastest wherever it was measured."""
_PLAIN = "the plain way: plan.lazy is false"


def ways(recipe: Recipe, packing: str, facts: ForwardFacts | None) -> dict[str, Choice]:
    """Attention, last block, embedding gradients, dropout masks, matrix products and compilation.

    Args:
        recipe: for what the user asked for in `plan`.
        packing: that was chosen.
        facts: what was found out; None: nothing was, and everything is done the plain way.
    """
    if facts is None:
        return {}
    lazy = recipe.plan.lazy is not False
    return {
        "attention": _attention(recipe, packing, facts),
        "last_block": _last_block(packing, facts.last_block, lazy),
        "embedding_gradients": _embeddings(facts, lazy),
        "dropout_masks": _dropout(facts, lazy),
        "products": _products(recipe, facts),
        "compile": _compile(recipe, facts.compiled),
    }


def _attention(recipe: Recipe, packing: str, facts: ForwardFacts) -> Choice:
    asked = recipe.plan.attention
    if packing == "padded":
        masked = f", all pairs of it, under a mask ({facts.pattern})" if facts.pattern else ""
        return Choice(value="sdpa", reason=f"padded: the model's own attention{masked}", source="derived")
    tried = facts.attention_seconds
    if asked is not None and asked not in facts.attention_failed:
        return Choice(value=asked, reason="asked for by plan.attention", source="user")
    failed = "".join(f"; {name}: {why}" for name, why in facts.attention_failed.items())
    if not tried and facts.attention_expected != "sdpa":
        why = "fastest wherever it was measured; trying others takes longer than it could save"
        why = f"no others are computed: {facts.pattern}" if facts.pattern else why
        return Choice(value=facts.attention_expected, reason=why, source="default")
    if not tried:
        return Choice(value="sdpa", reason=f"torch's own{failed}", source="default")
    expected = next(name for name in _EXPECTED if name in tried)
    best = min(tried, key=lambda name: tried[name])
    if tried[best] > CLEARLY_FASTER * tried[expected]:
        best = expected
    speeds = ", ".join(f"{name} {1 / seconds:,.0f}" for name, seconds in sorted(tried.items()))
    return Choice(
        value=best, reason=f"tokens/s with each that was tried: {speeds}{failed}", source="measured"
    )


def _last_block(packing: str, probe: ProbeFacts | None, lazy: bool) -> Choice:
    if not lazy:
        return Choice(value="all tokens", reason=_PLAIN, source="user")
    if packing == "padded" or probe is None:
        return Choice(
            value="all tokens", reason="padded: only packed samples can do with less", source="derived"
        )
    if not probe.packed_ok:
        return Choice(value="all tokens", reason=probe.reason, source="measured")
    reason = f"the head reads no others: {probe.reason}"
    return Choice(value="read tokens", reason=reason, source="measured", prediction=probe.error)


def _embeddings(facts: ForwardFacts, lazy: bool) -> Choice:
    if not lazy:
        return Choice(value="whole", reason=_PLAIN, source="user")
    if not facts.embedding_rows:
        why = "no large trainable embedding on a CPU"
        return Choice(value="whole", reason=why, source="derived")
    why = f"a micro-batch touches few of {facts.embedding_rows:,} rows: theirs are added in place"
    return Choice(value="rows", reason=why, source="derived")


def _dropout(facts: ForwardFacts, lazy: bool) -> Choice:
    if not lazy:
        return Choice(value="torch", reason=_PLAIN, source="user")
    if not facts.drops_on_cpu:
        return Choice(value="torch", reason="no dropout on a CPU", source="derived")
    return Choice(
        value="quick", reason="four masks from each 64-bit draw, probability to 1/65536", source="derived"
    )


def _products(recipe: Recipe, facts: ForwardFacts) -> Choice:
    asked, speed = recipe.plan.products, facts.onednn_speed
    if facts.compiled is not None and facts.compiled.ok:
        return Choice(value="torch", reason="what is compiled chooses for itself", source="derived")
    if speed is None:
        why = "only fp32 on a CPU has a choice, where torch brings oneDNN and was loaded after bigbatch"
        return Choice(value="torch", reason=why, source="derived")
    if asked is not None:
        return Choice(value=asked, reason="asked for by plan.products", source="user")
    if not speed:
        return Choice(value="torch", reason="no layer is large enough for a difference", source="derived")
    told = f"oneDNN multiplies {speed:.1f} times as fast as torch's usual library"
    return Choice(value="onednn" if speed > ONEDNN_WORTH else "torch", reason=told, source="measured")


def _compile(recipe: Recipe, found: CompileFacts | None) -> Choice:
    asked = recipe.plan.compile
    if asked == "off":
        return Choice(value="off", reason="asked for by plan.compile", source="user")
    if found is None:
        return Choice(value="off", reason="not tried", source="default")
    kind = "blocks" if asked == "auto" else asked
    if not found.ok:
        return Choice(value="off", reason=found.reason, source="measured")
    told = (
        f"{1 / found.seconds_per_token:,.0f} tokens/s compiled, {1 / found.eager_seconds_per_token:,.0f} eager; "
        f"compiling took {show_seconds(found.seconds)}"
    )
    if asked != "auto":
        return Choice(value=kind, reason=f"asked for by plan.compile; {told}", source="user")
    return Choice(value=kind, reason=told, source="measured")

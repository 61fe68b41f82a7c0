"""What fits the memory: the micro-batch, and what backward computes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bigbatch.errors import DoesNotFit
from bigbatch.facts import Choice
from bigbatch.plan import choices as chosen
from bigbatch.plan.memory import MemoryBreakdown, largest_micro_tokens
from bigbatch.plan.recompute import Recomputation
from bigbatch.recipe.schema import Recipe
from bigbatch.units import show_bytes

MemoryOf = Callable[[int, Recomputation | None], MemoryBreakdown]
"""Tokens of a micro-batch, and what is computed again: none of it as None. What then is needed."""


@dataclass(frozen=True)
class Fit:
    """A size and a way that fit."""

    micro_tokens: Choice
    again: Recomputation
    memory: MemoryBreakdown


def fitted(
    recipe: Recipe,
    choice: Choice,
    ways: Sequence[Recomputation],
    *,
    longest: int,
    limit_bytes: int,
    memory_of: MemoryOf,
) -> Fit:
    """The first size and way that fit. The planner shrinks its own choice; the user's is not touched.

    Args:
        recipe: for the words of the error.
        choice: of `micro_tokens`, by the user or by speed.
        ways: to compute activations again, the cheapest first.
        longest: tokens of the longest sample, which no micro-batch can be smaller than.
        limit_bytes: may be used.
        memory_of: what is needed.

    Raises:
        DoesNotFit: nothing does, or not what the user asked for; the message names what would.
    """
    found = _first(choice, ways, longest, limit_bytes, memory_of)
    if found is None:
        raise DoesNotFit(_shortfall(recipe, memory_of(choice.value, ways[-1]), limit_bytes, None))
    size, again = found
    if size != choice.value:
        user = choice.source == "user"
        needed = memory_of(choice.value, ways[-1 if user else 0])
        if user:
            raise DoesNotFit(_shortfall(recipe, needed, limit_bytes, size))
        limit = show_bytes(limit_bytes)
        why = f"{choice.value:,} would need {show_bytes(needed.needed_bytes)}, {limit} may be used"
        choice = Choice(value=size, reason=why, source="derived", unit="tokens")
    return Fit(choice, again, memory_of(size, again))


def _first(
    choice: Choice, ways: Sequence[Recomputation], longest: int, limit_bytes: int, memory_of: MemoryOf
) -> tuple[int, Recomputation] | None:
    """The micro-batch and the recomputation that fit.

    Recomputing nothing in smaller micro-batches comes first: it costs next to nothing. A size that the user named is
    kept while recomputation can help; only the message of the error names a smaller one.
    """

    def sizes(again: Recomputation) -> Iterator[int]:
        yield choice.value
        smaller = largest_micro_tokens(
            memory_of(choice.value, again),
            activation_bytes=again.activation_bytes_per_token,
            below=choice.value,
            longest=longest,
            limit_bytes=limit_bytes,
        )
        if smaller is not None:
            yield smaller

    def fits(size: int, again: Recomputation) -> bool:
        return memory_of(size, again).needed_bytes <= limit_bytes

    found = [(size, again) for again in ways for size in sizes(again) if fits(size, again)]
    if choice.source == "user":
        found.sort(key=lambda fit: fit[0] != choice.value)
    return found[0] if found else None


def _shortfall(recipe: Recipe, needed: MemoryBreakdown, limit_bytes: int, smaller: int | None) -> str:
    """What is needed, what there is, and what would fit."""
    source = "plan.memory" if recipe.plan.memory else "free on this machine"
    message = (
        f"does not fit: the plan needs {show_bytes(needed.needed_bytes)} ({chosen.parts(needed)}), "
        f"but {show_bytes(limit_bytes)} may be used ({source})"
    )
    if smaller is not None:
        return f"{message}; plan.micro_tokens={smaller} would fit, with the same result"
    missing = show_bytes(needed.needed_bytes - limit_bytes)
    return (
        f"{message}; {missing} too little, and no smaller micro-batch is enough: free memory, take a smaller "
        f"model, {_fewer(recipe)}, take an optimiser with less state "
        "(optimizer.name=sgd) or divide the model over more ranks (plan.mesh.shard)"
    )


def _fewer(recipe: Recipe) -> str:
    """What makes gradients, optimiser state and weights smaller."""
    adapter = recipe.model.adapter
    if adapter is None:
        return "train adapters (model.adapter=lora) or fewer parameters (model.trainable)"
    if adapter.base == "fp32":
        return "keep the adapters' base in 4 bits (model.adapter.base=4bit)"
    return "train adapters of fewer layers (model.adapter.targets)"

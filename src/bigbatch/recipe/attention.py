"""`model.attention`: which tokens of a sample see which; part of what is trained.

With q and k the places of a token that looks and of one that is looked at, both counted from the sample's first:

| pattern | q sees k where | source |
|---|---|---|
| `full` | always | Vaswani et al. 2017 |
| `local` | abs(q - k) < window | Beltagy et al. 2020, "Longformer" |
| `global` | the same, or q < global, or k < global | the same |
| `strided` | abs(q - k) < window, or q - k is a multiple of stride | Child et al. 2019, "Sparse Transformers" |
| `fixed` | q and k lie in one block, or k is one of the last `summary` of its block | the same |

Decoders see what they would see anyway (k <= q) of these; `global` goes with every pattern. Where ours differ: the
Longformer's window counts both sides (its 512 is our 257), its global tokens have projections of their own, which we do
not add, and its window may have gaps; Child et al. give heads, or layers, one of the two conditions each or merge them,
ours are merged in every head, and encoders see both ways.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bigbatch.recipe.values import Count, CountOrZero, Section

PatternName = Literal["full", "local", "global", "strided", "fixed"]
_DEFAULTS: dict[str, dict[str, int]] = {
    "full": {},
    "local": {"window": 256},
    "global": {"window": 256, "global": 1},
    "strided": {"window": 256},
    "fixed": {"block": 128, "summary": 8},
}


class AttentionSpec(Section):
    """Which tokens of a sample see which. In YAML the pattern alone is enough."""

    pattern: PatternName = "full"
    """`full`: all; `local`: those nearer than `window`; `global`: these, and the first `global` tokens of a sample see
    all and are seen by all; `strided`: near ones and every `stride`-th; `fixed`: those of the same block and the last
    `summary` of every block."""
    window: Count | None = None
    """Of local, global, strided: a token sees those less than so many away, on each side, itself included (256)."""
    stride: Count | None = None
    """Of strided: the distance of further ones (the window)."""
    block: Count | None = None
    """Of fixed: tokens of a block (128)."""
    summary: Count | None = None
    """Of fixed: how many tokens at a block's end are seen by all (8)."""
    first: Annotated[CountOrZero, Field(alias="global")] = 0
    """How many tokens at a sample's start see all and are seen by all (of `global`: 1)."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"pattern": value}
        if not isinstance(value, dict):
            return value
        name = value.get("pattern", "full")
        found = {key: given for key, given in value.items() if given is not None}
        found = {**_DEFAULTS.get(name, {}), **found} if isinstance(name, str) else found
        if name == "strided" and "stride" not in found:
            found["stride"] = found["window"]
        return found

    @model_validator(mode="after")
    def _of_this_pattern(self) -> AttentionSpec:
        takes = {"strided": {"window", "stride"}, "full": set()}.get(self.pattern, {*_DEFAULTS[self.pattern]})
        given = {key for key in ("window", "stride", "block", "summary") if getattr(self, key) is not None}
        other = sorted(given - takes) + (["global"] if self.pattern == "full" and self.first else [])
        if other:
            raise ValueError(f"{other[0]} is of another pattern; {self.pattern} takes {_listed(takes)}")
        if self.pattern == "global" and not self.first:
            raise ValueError("global: found 0; pattern global has 1 or more, pattern local none")
        if self.block and self.summary and self.summary > self.block:
            raise ValueError(f"summary: found {self.summary}; expected at most block, {self.block}")
        return self


def _listed(keys: set[str]) -> str:
    return " and ".join(sorted(keys - {"global"})) or "no others"

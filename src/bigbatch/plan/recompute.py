"""Which activations are computed again, when they do not fit: as few FLOPs as the memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bigbatch.facts import CalibrationFacts, ModelFacts
from bigbatch.plan.forward import Recompute

BYTES_PER_VALUE = 4
_FORWARD = 1 / 3
"""Share of a forward pass in forward and backward."""
_CHEAP = 0.3
"""Share of a block's forward time that is neither matrix product nor attention. A guess."""


@dataclass(frozen=True, kw_only=True)
class Recomputation:
    """One way to trade time for memory."""

    kind: Recompute
    blocks: int
    """Blocks that recompute."""
    activation_bytes_per_token: float
    """What is kept then, at the peak."""
    slowdown: float
    """Time of forward and backward, as a multiple of that without recomputation."""


def options(
    model: ModelFacts, activation_bytes: float, calibration: CalibrationFacts | None, recomputable: int
) -> Iterator[Recomputation]:
    """Ways to recompute, the one with the fewest recomputed FLOPs first: none, selective, then whole blocks.

    Args:
        model: sizes.
        activation_bytes: per token, when nothing is recomputed.
        calibration: knows what matrix products and attention give; None: blocks only.
        recomputable: blocks that can.
    """
    yield Recomputation(kind="none", blocks=0, activation_bytes_per_token=activation_bytes, slowdown=1.0)
    block = activation_bytes / max(1, model.blocks)
    entrance = model.hidden * BYTES_PER_VALUE
    kept = {"blocks": entrance}
    if calibration is not None and calibration.selective_bytes_per_token:
        kept = {"selective": entrance + calibration.selective_bytes_per_token / max(1, model.blocks), **kept}
    again = {"selective": _FORWARD * _CHEAP, "blocks": _FORWARD}
    for kind in ("selective", "blocks"):
        if kind not in kept or kept[kind] >= block:
            continue
        for blocks in range(1, recomputable + 1):
            yield Recomputation(
                kind=kind,
                blocks=blocks,
                activation_bytes_per_token=activation_bytes - blocks * (block - kept[kind]),
                slowdown=1 + again[kind] * blocks / max(1, model.blocks),
            )


def asked(recipe_value: str | int, options: list[Recomputation], recomputable: int) -> Recomputation:
    """The way that `plan.recompute` names; an int n: every n-th block.

    Args:
        recipe_value: `plan.recompute`.
        options: all ways, the one without recomputation first.
        recomputable: number of blocks that can.

    Returns:
        The first of the options where the one that is named does not exist for this model.
    """
    if recipe_value == "none" or not recomputable:
        return options[0]
    kind, blocks = (
        ("blocks", -(-recomputable // recipe_value))
        if isinstance(recipe_value, int)
        else (recipe_value, recomputable)
    )
    found = [option for option in options if (option.kind, option.blocks) == (kind, blocks)]
    return found[0] if found else options[0]

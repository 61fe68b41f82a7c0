"""fp16 loses gradients below 6e-8, so the loss is multiplied by a power of two and the gradient divided by it.

The power follows the run: halved when the gradient overflows (the update is done again), doubled after a row of
updates without overflow. Powers of two change no bit of what neither overflows nor underflows.

Source: Micikevicius et al. 2018, arXiv 1710.03740, section 3.2. Differs from it: an update that overflows is
done again, not skipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class GradientOverflow(Exception):
    """The gradient was not finite at this loss scale; nothing was changed, so the update can be done again."""


@dataclass(kw_only=True)
class LossScale:
    """The factor, and when it changes. Its state is part of a checkpoint.

    Example:
        >>> scale = LossScale(value=8.0)
        >>> scale.halve()
        >>> scale.value
        4.0
    """

    value: float = 2.0**16
    smallest: float = 1.0
    """At this scale an overflow is the model's own: the update counts as not finite."""
    largest: float = 2.0**24
    grow_after: int = 100
    """Updates in a row without overflow after which the scale doubles. Runs of large batches are short."""
    good_updates: int = 0
    """Of the current row."""

    @classmethod
    def none(cls) -> LossScale:
        """A factor of 1 that stays: formats whose gradients do not underflow."""
        return cls(value=1.0, largest=1.0)

    @property
    def varies(self) -> bool:
        """Whether it may be another than 1."""
        return self.largest > 1

    def scaled(self, loss: Tensor) -> Tensor:
        """What the backward pass starts from."""
        return loss if self.value == 1 else loss * self.value

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide in place: before the norm, so that the norm and the clipping are those of the gradient."""
        if gradients and self.value != 1:
            torch._foreach_mul_(list(gradients), 1.0 / self.value)  # pyright: ignore[reportPrivateImportUsage]

    def may_help(self, loss: float) -> bool:
        """Whether a smaller one may: it cannot when the loss itself, which is not scaled, is not finite."""
        return self.value > self.smallest and math.isfinite(loss)

    def halve(self) -> None:
        """After an overflow."""
        self.value = max(self.smallest, self.value / 2)
        self.good_updates = 0

    def after(self, skipped: bool) -> bool:
        """Count an update that was recorded; True when the scale has just grown."""
        self.good_updates = 0 if skipped else self.good_updates + 1
        if self.good_updates < self.grow_after or self.value >= self.largest:
            return False
        self.value, self.good_updates = self.value * 2, 0
        return True

    def to_state(self) -> dict[str, Any]:
        """What a checkpoint holds, as strict JSON."""
        return {"value": self.value, "good_updates": self.good_updates}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was."""
        self.value, self.good_updates = float(state["value"]), int(state["good_updates"])

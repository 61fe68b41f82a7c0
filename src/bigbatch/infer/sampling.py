"""How a text is written: greedily, with beams, or drawn by chance that belongs to the row and not to the batch.

`generate` of transformers draws from one generator, so that a text depends on those written beside it. Here each row,
each step and each token id has a number of its own, and the largest sum is taken, as greedily as ever::

    token = argmax over v of  logit_v / temperature - log(-log u(seed, row, step, v)),   u uniform in (0, 1)

which is token v with probability softmax(logit / temperature)_v (Gumbel-max). Shapes: B texts, V token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from bigbatch.data.order import mixed, mixed_with
from bigbatch.errors import UsageError

_STREAM = 0x7E87
"""Tells these numbers from those that order and mask the same data."""
_GAMMA, _FIRST, _SECOND = (
    number - (1 << 64) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Of splitmix64 (`data.order`), as int64."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How texts are written.

    Raises:
        UsageError: a number out of range, or two ways at once.
    """

    max_tokens: int | None = None
    """Tokens of a text at most; None: 256, of an encoder-decoder as in its evaluations."""
    temperature: float = 0.0
    """Logits are divided by it, then a token is drawn; 0: always the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens are drawn, as many as have this probability together."""
    top_k: int | None = None
    """Only so many of the likeliest tokens are drawn; None: all."""
    beams: int | None = None
    """Texts that are pursued at a time; None: 1, of an encoder-decoder as its task has it."""
    stop: tuple[str, ...] = ()
    """A text ends in front of the first of these that it would hold."""
    seed: int = 0
    """What is drawn is a function of this and of the row's number."""

    def __post_init__(self) -> None:
        whole, number = "a whole number from 1", "a number from 0"
        rules = {
            "max_tokens": (self.max_tokens is None or _from_1(self.max_tokens), whole),
            "temperature": (_is_number(self.temperature) and 0 <= self.temperature < float("inf"), number),
            "top_p": (_is_number(self.top_p) and 0 < self.top_p <= 1, "a share above 0, at most 1"),
            "top_k": (self.top_k is None or _from_1(self.top_k), whole),
            "beams": (self.beams is None or _from_1(self.beams), whole),
            "stop": (all(isinstance(each, str) and each for each in self.stop), "texts that are not empty"),
            "seed": (isinstance(self.seed, int), "a whole number"),
        }
        for name, (fits, expected) in rules.items():
            if not fits:
                raise UsageError(f"{name}: found {getattr(self, name)!r}; expected {expected}")
        if self.temperature and (self.beams or 1) > 1:
            raise UsageError("temperature and beams: one draws, the other searches; leave one of them out")
        if not self.temperature and (self.top_p < 1 or self.top_k is not None):
            raise UsageError("top_p and top_k say which tokens are drawn: give a temperature too, such as 1")


def _from_1(found: object) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and found >= 1


def _is_number(found: object) -> bool:
    return isinstance(found, (int, float)) and not isinstance(found, bool)


@dataclass(frozen=True, kw_only=True)
class Sampled(LogitsProcessor):
    """Adds to each token's score what makes the largest one a draw, for this row and step alone.

    Differs from the usual way, which draws from one generator for all texts of a batch, in nothing but where the
    numbers come from: the distribution is softmax of the scores.

    Reference: Gumbel 1954; Maddison, Tarlow, Minka, "A* sampling", NeurIPS 2014.

    Example:
        >>> alone = Sampled(seed=1, rows_B=np.array([7]), shown=0)(torch.empty(1, 0), torch.zeros(1, 5))
        >>> beside = Sampled(seed=1, rows_B=np.array([3, 7]), shown=0)(torch.empty(2, 0), torch.zeros(2, 5))
        >>> bool((beside[1] == alone[0]).all())
        True
    """

    seed: int
    rows_B: np.ndarray
    """(B,) number of each row, wherever it is written."""
    shown: int
    """Tokens in front of the first that is drawn."""
    done_B: np.ndarray | None = None
    """(B,) tokens of each row that were drawn before, of what is shown; None: none were."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) scores with noise.

        Args:
            input_ids: (B, L) what is there.
            scores: (B, V) log probabilities but for a constant; -inf for tokens that are not drawn.
        """
        step = input_ids.shape[1] - self.shown
        steps_B = step + (np.zeros(len(self.rows_B), np.int64) if self.done_B is None else self.done_B)
        return scores + noise(self.seed, self.rows_B, steps_B, scores.shape[1], scores.device).to(
            scores.dtype
        )


def noise(seed: int, rows_B: np.ndarray, steps_B: np.ndarray, tokens: int, device: torch.device) -> Tensor:
    """(B, V) float64 standard Gumbel numbers, a function of (seed, row, step, token).

    Args:
        seed: of the generation.
        rows_B: (B,) numbers of rows.
        steps_B: (B,) number of the token in its text, from 0; one number for all is enough.
        tokens: V.
        device: where they are wanted.
    """
    start_B = np.full(len(rows_B), mixed(seed, _STREAM), np.uint64)
    states_B = mixed_with(mixed_with(start_B, rows_B), steps_B)
    where = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    states = torch.from_numpy(states_B.astype(np.int64)).to(where)
    fractions_BV = (_mixed(states[:, None] + _steps(tokens, where)) >> 11 & (1 << 53) - 1).double()
    noise_BV = -torch.log(-torch.log((fractions_BV + 0.5) * 2.0**-53))
    return noise_BV.float().to(device) if device.type == "mps" else noise_BV


def _steps(tokens: int, device: torch.device) -> Tensor:
    return (torch.arange(tokens, device=device) + 1) * _GAMMA


def _mixed(z: Tensor) -> Tensor:
    """`data.order`'s finaliser, of int64 that wraps as uint64 does."""
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * _FIRST
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * _SECOND
    return z ^ (z >> 31 & (1 << 33) - 1)


def choosers(
    how: Decoding, rows_B: np.ndarray, shown: int, done_B: np.ndarray | None = None
) -> list[LogitsProcessor]:
    """What turns a model's logits into scores whose largest is taken.

    Args:
        how: to write.
        rows_B: (B,) numbers of the rows.
        shown: tokens in front of the first that is written.
        done_B: (B,) tokens of each that were written before, of these; None: none were.
    """
    if not how.temperature:
        return []
    found: Sequence[LogitsProcessor] = [TemperatureLogitsWarper(float(how.temperature))]
    if how.top_k is not None:
        found = [*found, TopKLogitsWarper(how.top_k)]
    if how.top_p < 1:
        found = [*found, TopPLogitsWarper(how.top_p)]
    return [*found, Sampled(seed=how.seed, rows_B=rows_B, shown=shown, done_B=done_B)]

"""Losses of pairs of answers: what is minimised of the log probabilities of the chosen and the rejected one.

::

    score(y)  = log p(y | prompt) - log p_start(y | prompt)    where the loss is held to the start, else log p alone;
                a sum over the tokens of y, or their mean where it is length-normalised
    margin    = score(chosen) - score(rejected)

    dpo       = -(1 - s) log sigmoid(beta margin) - s log sigmoid(-beta margin)
    ipo       = (margin - 1 / (2 beta))^2
    simpo     = as dpo, of  beta margin - gamma               means, no start
    orpo      = nll + beta odds                               means, no start
      nll     = -score(chosen)
      odds    = -log sigmoid(log odds(chosen) - log odds(rejected)),   log odds(y) = score - log(1 - exp(score))

Sources: dpo Rafailov et al. 2023, its smoothing s Mitchell 2023, on means Lambert et al. 2024 (Tülu 3); ipo Azar et al.
2023, equation 17; simpo Meng et al. 2024, equation 6; orpo Hong, Lee and Thorne 2024, equations 6 and 7 (beta is their
lambda). Differs from the papers: a probability of 1 counts as 1 - 1e-12, whose odds are finite.

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

MOST_SURE = -1e-12
"""Largest mean log probability whose odds are told."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Of both answers of each pair, fp64."""

    chosen_P: Tensor
    rejected_P: Tensor
    tokens_P: Tensor
    """Tokens of each chosen answer."""

    @property
    def margins_P(self) -> Tensor:
        """By how many nats the chosen answer is ahead."""
        return self.chosen_P - self.rejected_P


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe says of a loss of pairs."""

    beta: float = 0.1
    smoothing: float = 0.0
    length_normalised: bool = False
    """dpo, ipo: means over tokens in place of sums."""
    gamma: float = 1.0
    """simpo: the margin that is asked for, nats."""
    nll: str = "pairs"
    """orpo: `pairs`: each chosen answer counts alike; `tokens`: each of their tokens does."""


def dpo(scores: Scores, settings: Settings) -> dict[str, Tensor]:
    """Nats of each pair (P,).

    Example:
        >>> one = torch.zeros(1, dtype=torch.float64)
        >>> found = dpo(Scores(chosen_P=one, rejected_P=one, tokens_P=one), Settings(beta=0.1))
        >>> round(float(found["dpo"]), 4)
        0.6931
    """
    return {"dpo": _logistic(settings.beta * scores.margins_P, settings.smoothing)}


def ipo(scores: Scores, settings: Settings) -> dict[str, Tensor]:
    """Squared distance of each pair's margin from 1 / (2 beta) (P,)."""
    return {"ipo": (scores.margins_P - 1 / (2 * settings.beta)).square()}


def simpo(scores: Scores, settings: Settings) -> dict[str, Tensor]:
    """Nats of each pair (P,), whose mean log probabilities should be gamma / beta apart."""
    return {"simpo": _logistic(settings.beta * scores.margins_P - settings.gamma, settings.smoothing)}


def orpo(scores: Scores, settings: Settings) -> dict[str, Tensor]:
    """Two terms, nats of each pair (P,): of the chosen answer, and of the odds of both."""
    nll_P = -scores.chosen_P
    odds_P = _log_odds(scores.chosen_P) - _log_odds(scores.rejected_P)
    return {
        "nll": nll_P * scores.tokens_P if settings.nll == "tokens" else nll_P,
        "odds": -settings.beta * functional.logsigmoid(odds_P),
    }


def _logistic(margins_P: Tensor, smoothing: float) -> Tensor:
    right_P = functional.logsigmoid(margins_P)
    return -(1 - smoothing) * right_P - smoothing * functional.logsigmoid(-margins_P)


def _log_odds(mean_P: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean)."""
    below_P = mean_P.clamp(max=MOST_SURE)
    return below_P - torch.log(-torch.expm1(below_P))


@dataclass(frozen=True)
class Range:
    """The numbers that an option may have, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """A loss that a recipe can name."""

    of: Callable[[Scores, Settings], dict[str, Tensor]]
    terms: tuple[str, ...]
    beta: float
    """Where the recipe does not say."""
    from_start: bool = False
    """Whether answers are held against what the starting model says of them."""
    means: bool = False
    """Whether scores are always means over tokens."""
    smooths: bool = False
    """Whether it takes `loss.label_smoothing`."""
    options: Mapping[str, Range | tuple[object, ...]] = field(default_factory=dict)
    """`loss.args` that it takes -> the values that they may have."""


LOSSES: Mapping[str, PairLoss] = {
    "dpo": PairLoss(
        of=dpo, terms=("dpo",), beta=0.1, from_start=True, smooths=True,
        options={"length_normalised": (True, False)},
    ),
    "ipo": PairLoss(
        of=ipo, terms=("ipo",), beta=0.1, from_start=True, options={"length_normalised": (True, False)}
    ),
    "simpo": PairLoss(
        of=simpo, terms=("simpo",), beta=2.0, means=True, smooths=True, options={"gamma": Range(0.0, 100.0)}
    ),
    "orpo": PairLoss(
        of=orpo, terms=("nll", "odds"), beta=0.1, means=True, options={"nll": ("pairs", "tokens")}
    ),
}  # fmt: skip
"""`loss` of the recipe -> what it is."""


def option_problem(allowed: Range | tuple[object, ...], value: object) -> str | None:
    """What is wrong with the value of an option of `PairLoss.options`."""
    if isinstance(allowed, Range):
        fits = isinstance(value, (int, float)) and allowed.low <= value <= allowed.high
        if fits and not isinstance(value, bool):
            return None
        return f"found {value!r}; expected a number from {allowed.low:g} to {allowed.high:g}"
    if any(type(value) is type(one) and value == one for one in allowed):
        return None
    shown = ", ".join("true" if one is True else "false" if one is False else str(one) for one in allowed)
    return f"found {value!r}; expected {shown}"

"""Learning rate, betas and eps when the batch is k times the tuned one. Nothing moves unless asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from bigbatch.errors import Problem, RecipeError

DOUBTFUL_SDE_STEP = 0.3
"""Above this k (1 - beta1) the SDE rule is a poor approximation: warn."""


class OptimizerSettings(Protocol):
    """What the rooms `rules` and `optim` read of `recipe.optimizer`."""

    @property
    def name(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def eps(self) -> float: ...
    @property
    def base_batch(self) -> int | None: ...
    @property
    def lr_rule(self) -> str: ...
    @property
    def betas_rule(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Effective:
    """The numbers that the optimiser is built with, and why they are what they are."""

    lr: float
    """Peak learning rate."""
    betas: tuple[float, float]
    eps: float
    ratio: float = 1.0
    """k: this batch divided by `base_batch`."""
    notes: tuple[str, ...] = ()
    """One sentence a number that moved, or one that says that none did."""
    warnings: tuple[str, ...] = ()


def scaled(settings: OptimizerSettings, batch: float) -> Effective:
    """Apply `lr_rule` and `betas_rule` for a batch k = batch / base_batch times the tuned one.

    ::

        lr_rule     linear: lr k           sqrt: lr sqrt(k), eps / sqrt(k)
        betas_rule  half_life: beta^k      sde: 1 - beta -> k (1 - beta)

    Args:
        settings: `recipe.optimizer`.
        batch: the global batch, in the unit of `base_batch` (the batch's own unit).

    Raises:
        RecipeError: a rule without `base_batch`, a beta rule for an optimiser without betas, or `sde` with
            k (1 - beta) >= 1.

    Example:
        From batch 32 to 128 with sqrt and sde: 1e-3, (.9, .999), 1e-8 become 2e-3, (.6, .996), 5e-9.

    Reference:
        Malladi et al. 2022, On the SDEs and Scaling Rules for Adaptive Gradient Algorithms; Goyal et al. 2017
        for the linear rule of SGD; half-life: the memory of an average in samples stays the same.
    """
    _refuse_rules_without_base(settings)
    if settings.base_batch is None:
        note = f"lr {settings.lr:g} as typed: nothing is rescaled without optimizer.base_batch"
        return Effective(lr=settings.lr, betas=_pair(settings.betas), eps=settings.eps, notes=(note,))
    ratio = batch / settings.base_batch
    lr, eps, notes = _learning_rate(
        settings, ratio, f"batch {batch:g} is {ratio:g} times {settings.base_batch:g}"
    )
    betas, beta_notes, warnings = _betas(settings, ratio)
    warnings += _linear_doubt(settings, ratio)
    return Effective(lr=lr, betas=betas, eps=eps, ratio=ratio, notes=notes + beta_notes, warnings=warnings)


def _learning_rate(
    settings: OptimizerSettings, ratio: float, why: str
) -> tuple[float, float, tuple[str, ...]]:
    """Learning rate and eps with their reasons."""
    if settings.lr_rule == "linear":
        lr = settings.lr * ratio
        return lr, settings.eps, (f"lr {settings.lr:g} -> {lr:g} (linear rule: {why})",)
    if settings.lr_rule == "sqrt":
        lr = settings.lr * math.sqrt(ratio)
        note = f"lr {settings.lr:g} -> {lr:g} (sqrt rule: {why})"
        if settings.name == "sgd":
            return lr, settings.eps, (note,)
        eps = settings.eps / math.sqrt(ratio)
        return (
            lr,
            eps,
            (note, f"eps {settings.eps:g} -> {eps:g} (divided by sqrt({ratio:g}) with the sqrt rule)"),
        )
    return settings.lr, settings.eps, (f"lr {settings.lr:g} as typed: {why}, but lr_rule is none",)


def _betas(
    settings: OptimizerSettings, ratio: float
) -> tuple[tuple[float, float], tuple[str, ...], tuple[str, ...]]:
    """Betas with their reasons and doubts."""
    old = _pair(settings.betas)
    if settings.betas_rule == "half_life":
        new = (old[0] ** ratio, old[1] ** ratio)
        why = f"half-life rule: the averages remember the same number of samples, beta^{ratio:g}"
        return new, (f"betas {_show(old)} -> {_show(new)} ({why})",), ()
    if settings.betas_rule != "sde":
        return old, (), ()
    steps = [ratio * (1 - beta) for beta in old]
    for number, (beta, step) in enumerate(zip(old, steps, strict=True), start=1):
        if step >= 1:
            raise RecipeError([_sde_impossible(number, beta, ratio, step)])
    new = (1 - steps[0], 1 - steps[1])
    doubts: tuple[str, ...] = ()
    if steps[0] > DOUBTFUL_SDE_STEP:
        doubts = (
            f"optimizer.betas_rule: k (1 - beta1) = {ratio:g} x {1 - old[0]:g} = {steps[0]:g} is above "
            f"{DOUBTFUL_SDE_STEP:g}: the SDE rule is a rough guess here; half_life holds for every batch",
        )
    return new, (f"betas {_show(old)} -> {_show(new)} (sde rule: 1 - beta times {ratio:g})",), doubts


def _sde_impossible(number: int, beta: float, ratio: float, step: float) -> Problem:
    return Problem(
        where="recipe",
        key="optimizer.betas_rule",
        what=f"sde needs k (1 - beta{number}) < 1, but {ratio:g} x {1 - beta:g} = {step:g} "
        f"(beta{number} would be {1 - step:g}); use betas_rule: half_life, or a batch "
        f"below {1 / (1 - beta):.4g} times base_batch",
    )


def _linear_doubt(settings: OptimizerSettings, ratio: float) -> tuple[str, ...]:
    """The linear rule is SGD's."""
    if settings.lr_rule != "linear" or settings.name == "sgd" or ratio <= 1:
        return ()
    return (
        f"optimizer.lr_rule: linear is the rule of SGD; {settings.name} follows sqrt "
        f"(lr {settings.lr * math.sqrt(ratio):g} instead of {settings.lr * ratio:g})",
    )


def _refuse_rules_without_base(settings: OptimizerSettings) -> None:
    """Rules need to know what to scale from, and betas to scale."""
    problems = []
    for key, value, idle in (
        ("lr_rule", settings.lr_rule, "none"),
        ("betas_rule", settings.betas_rule, "keep"),
    ):
        if value != idle and settings.base_batch is None:
            what = f"{value} needs optimizer.base_batch: the batch that lr and betas were tuned for"
            problems.append(Problem(where="recipe", key=f"optimizer.{key}", what=what))
    if settings.betas_rule != "keep" and settings.name == "sgd":
        what = f"{settings.betas_rule} changes betas, which sgd does not have; expected keep"
        problems.append(Problem(where="recipe", key="optimizer.betas_rule", what=what))
    if problems:
        raise RecipeError(problems)


def _pair(betas: tuple[float, float]) -> tuple[float, float]:
    first, second = betas
    return float(first), float(second)


def _show(betas: tuple[float, float]) -> str:
    return f"({betas[0]:.6g}, {betas[1]:.6g})"

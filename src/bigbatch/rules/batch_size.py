"""Learning rate, betas and eps when the batch is k times the tuned one. Nothing moves unless asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from bigbatch.errors import Problem, RecipeError
from bigbatch.recipe.optimizers import kind_of_optimizer

DOUBTFUL_SDE_STEP = 0.3
"""Above this k (1 - beta1) the SDE rule is a poor approximation: warn."""
NOISE_LIMITED = 1.1
"""Above this k / gain the linear rule promises clearly more than the noise scale allows: warn."""
BREAKS = {
    "linear": "known to hold far below the noise scale alone: ResNet-50 with SGD to 8,192",
    "sqrt": "known to hold while noise dominates the gradient: BERT with LAMB to 32,768, in pre-training alone",
    "gain": "as good as the noise scale, which grows while a model learns",
    "half_life": "tried in pre-training of language models, from batch 1 up",
    "sde": "an expansion in k (1 - beta1)",
    "legw": "tried with LSTMs and ResNet-50 to 32,768, not in fine-tuning",
}
"""Where each rule is known to hold or to break; docs/optimizers.md has the references."""


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
    @property
    def noise_scale(self) -> float | None: ...


def gain(base_batch: float, batch: float, noise_scale: float) -> float:
    """How much larger SGD's learning rate may be at `batch` than at `base_batch`: k below the noise scale, 1 above.

    ::

        r = (1 + noise / base) / (1 + noise / batch)

    It is the ratio of `sgd_rate` at both batches, and AdaScale's gain: one update does the work of r updates of the
    base. r / k is what is left of the efficiency in samples.

    Args:
        base_batch: the tuned batch.
        batch: the new one, in the same unit.
        noise_scale: gradient noise scale (trace of the covariance / squared norm of the mean), in the same unit.

    Example:
        >>> round(gain(32, 256, 100), 4), round(gain(32, 256, 100) / 8, 4)
        (2.9663, 0.3708)

    Reference:
        Johnson et al. 2020, arXiv 2007.05105 (AdaScale); McCandlish et al. 2018, arXiv 1812.06162, equation 2.6.
    """
    return (1 + noise_scale / base_batch) / (1 + noise_scale / batch)


def sgd_rate(largest: float, batch: float, noise_scale: float) -> float:
    """The best learning rate of SGD: largest / (1 + noise / batch), linear for small batches, flat for large ones.

    Args:
        largest: the best rate without noise.
        batch: of an update.
        noise_scale: gradient noise scale in the unit of the batch.

    Example:
        >>> sgd_rate(0.5, 100, 100)
        0.25

    Reference:
        McCandlish et al. 2018, arXiv 1812.06162, equation 2.6.
    """
    return largest / (1 + noise_scale / batch)


def half_life_beta(tokens_per_update: float, half_life_tokens: float) -> float:
    """The beta whose average forgets half in so many tokens.

    Example:
        >>> round(half_life_beta(524_288, 1e7), 5)
        0.96431

    Reference:
        Marek et al. 2025, arXiv 2507.07101, "Small batch size training for language models".
    """
    return 0.5 ** (tokens_per_update / half_life_tokens)


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
                    gain: r = (1 + noise / base) / (1 + noise / batch); lr r (sgd, lars), or lr sqrt(r), eps / sqrt(r)
        betas_rule  half_life: beta^k      sde: 1 - beta -> k (1 - beta)

    r is between 1 and k: the rule `gain` is linear (or sqrt) for batches far below the noise scale, and stops above it.

    Args:
        settings: `recipe.optimizer`.
        batch: the global batch, in the unit of `base_batch` (the batch's own unit).

    Raises:
        RecipeError: a rule without `base_batch` or `noise_scale`, a beta rule for an optimiser without betas, or `sde`
            with k (1 - beta) >= 1.

    Example:
        From batch 32 to 128 with sqrt and sde: 1e-3, (.9, .999), 1e-8 become 2e-3, (.6, .996), 5e-9.

    Reference:
        Malladi et al. 2022, On the SDEs and Scaling Rules for Adaptive Gradient Algorithms; Goyal et al. 2017
        for the linear rule of SGD; Marek et al. 2025 for the half-life: the memory of an average in samples stays the
        same. Differs from the last: both betas have it, there the second alone. That eps follows the
        root of the gain is our own step: the second moment of a gradient of noise and mean shrinks by just that.
    """
    _refuse_rules_without_base(settings)
    if settings.base_batch is None:
        note = f"lr {settings.lr:g} as typed: nothing is rescaled without optimizer.base_batch"
        return Effective(lr=settings.lr, betas=_pair(settings.betas), eps=settings.eps, notes=(note,))
    ratio = batch / settings.base_batch
    if ratio == 1:
        note = f"lr {settings.lr:g} as it is: the batch is optimizer.base_batch"
        return Effective(lr=settings.lr, betas=_pair(settings.betas), eps=settings.eps, notes=(note,))
    lr, eps, notes = _learning_rate(
        settings, ratio, f"batch {batch:g} is {ratio:g} times {settings.base_batch:g}"
    )
    betas, beta_notes, warnings = _betas(settings, ratio)
    warnings += _doubts(settings, batch, ratio)
    return Effective(lr=lr, betas=betas, eps=eps, ratio=ratio, notes=notes + beta_notes, warnings=warnings)


def _learning_rate(
    settings: OptimizerSettings, ratio: float, why: str
) -> tuple[float, float, tuple[str, ...]]:
    """Learning rate and eps with their reasons."""
    if settings.lr_rule == "linear":
        lr = settings.lr * ratio
        told = f"lr {settings.lr:g} -> {lr:g} (linear rule: {why}; {BREAKS['linear']})"
        return lr, settings.eps, (told,)
    if settings.lr_rule == "sqrt":
        return _by_root(settings, ratio, f"sqrt rule: {why}; {BREAKS['sqrt']}")
    if settings.lr_rule == "gain":
        return _by_gain(settings, ratio, why)
    return settings.lr, settings.eps, (f"lr {settings.lr:g} as typed: {why}, but lr_rule is none",)


def _by_root(settings: OptimizerSettings, factor: float, why: str) -> tuple[float, float, tuple[str, ...]]:
    """Lr times, and eps divided by, the root of a factor."""
    lr = settings.lr * math.sqrt(factor)
    note = f"lr {settings.lr:g} -> {lr:g} ({why})"
    if not kind_of_optimizer(settings.name).eps:
        return lr, settings.eps, (note,)
    eps = settings.eps / math.sqrt(factor)
    moved = (
        f"eps {settings.eps:g} -> {eps:g} (divided by sqrt({factor:.4g}) with the {settings.lr_rule} rule)"
    )
    return lr, eps, (note, moved)


def _by_gain(settings: OptimizerSettings, ratio: float, why: str) -> tuple[float, float, tuple[str, ...]]:
    """AdaScale's gain, or its root."""
    assert settings.base_batch is not None and settings.noise_scale is not None
    base, noise = settings.base_batch, settings.noise_scale
    found = gain(base, base * ratio, noise)
    told = (
        f"gain rule: {why}, noise scale {noise:g}: one update does the work of {found:.4g}, "
        f"a sample that of {found / ratio:.3g}; {BREAKS['gain']}"
    )
    if not kind_of_optimizer(settings.name).like_sgd:
        return _by_root(settings, found, told)
    lr = settings.lr * found
    return lr, settings.eps, (f"lr {settings.lr:g} -> {lr:g} ({told})",)


def _betas(
    settings: OptimizerSettings, ratio: float
) -> tuple[tuple[float, float], tuple[str, ...], tuple[str, ...]]:
    """Betas with their reasons and doubts."""
    old = _pair(settings.betas)
    if settings.betas_rule == "half_life":
        new = (old[0] ** ratio, old[1] ** ratio)
        why = f"half-life rule: the averages remember the same number of samples, beta^{ratio:g}; {BREAKS['half_life']}"
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
    note = f"betas {_show(old)} -> {_show(new)} (sde rule: 1 - beta times {ratio:g}; {BREAKS['sde']})"
    return new, (note,), doubts


def _sde_impossible(number: int, beta: float, ratio: float, step: float) -> Problem:
    return Problem(
        where="recipe",
        key="optimizer.betas_rule",
        what=f"sde needs k (1 - beta{number}) < 1, but {ratio:g} x {1 - beta:g} = {step:g} "
        f"(beta{number} would be {1 - step:g}); use betas_rule: half_life, or a batch "
        f"below {1 / (1 - beta):.4g} times base_batch",
    )


def _doubts(settings: OptimizerSettings, batch: float, ratio: float) -> tuple[str, ...]:
    """Where a rule is used outside of what it was made for."""
    found: list[str] = []
    rule, name, kind = settings.lr_rule, settings.name, kind_of_optimizer(settings.name)
    if ratio <= 1:
        return ()
    if rule == "linear" and not kind.like_sgd:
        found.append(
            f"optimizer.lr_rule: linear is the rule of SGD; {name} follows sqrt "
            f"(lr {settings.lr * math.sqrt(ratio):g} instead of {settings.lr * ratio:g})"
        )
    if rule == "sqrt" and kind.like_sgd:
        found.append(f"optimizer.lr_rule: sqrt is the rule of Adam and its kin; {name} follows linear")
    if rule in ("sqrt", "gain") and kind.one_length:
        found.append(
            f"optimizer.lr_rule: {rule} was derived for Adam; for {name}, whose step does not shrink with noise in the "
            "same way, it is a guess"
        )
    if rule in ("linear", "sqrt") and settings.noise_scale is not None and settings.base_batch is not None:
        possible = gain(settings.base_batch, batch, settings.noise_scale)
        if ratio > NOISE_LIMITED * possible:
            found.append(
                f"optimizer.lr_rule: {rule} takes batches far below the noise scale, but {batch:g} is "
                f"{batch / settings.noise_scale:.3g} times optimizer.noise_scale: the gain is {possible:.4g}, not "
                f"{ratio:g}; lr_rule: gain follows it"
            )
    return tuple(found)


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
    if settings.lr_rule == "gain" and settings.noise_scale is None:
        what = "gain needs optimizer.noise_scale: the gradient noise scale in the batch's own unit"
        problems.append(Problem(where="recipe", key="optimizer.lr_rule", what=what))
    if settings.betas_rule != "keep" and kind_of_optimizer(settings.name).like_sgd:
        what = f"{settings.betas_rule} changes betas, which {settings.name} does not have; expected keep"
        problems.append(Problem(where="recipe", key="optimizer.betas_rule", what=what))
    if settings.betas_rule != "keep" and settings.name == "schedule_free":
        what = (
            f"{settings.betas_rule} changes betas that are decays; the first one of schedule_free says where gradients "
            "are taken; expected keep"
        )
        problems.append(Problem(where="recipe", key="optimizer.betas_rule", what=what))
    if problems:
        raise RecipeError(problems)


def _pair(betas: tuple[float, float]) -> tuple[float, float]:
    first, second = betas
    return float(first), float(second)


def _show(betas: tuple[float, float]) -> str:
    return f"({betas[0]:.6g}, {betas[1]:.6g})"

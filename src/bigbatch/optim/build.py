"""From the recipe's optimiser to a torch optimiser over the model's trainable parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import TypedDict

from bigbatch.errors import ModelError, Problem, RecipeError
from bigbatch.optim.adamw_8bit import adamw_8bit
from bigbatch.optim.adamw_bf16 import AdamWBf16
from bigbatch.optim.average import averaged
from bigbatch.optim.debias import set_betas
from bigbatch.optim.depths import Depths
from bigbatch.optim.groups import decay_groups
from bigbatch.optim.lamb import Lamb, SumOfSquares
from bigbatch.optim.lars import Lars
from bigbatch.optim.lion import Lion
from bigbatch.optim.muon import Muon, Whole
from bigbatch.optim.schedule_free import schedule_free_adamw
from bigbatch.rules.batch_size import Effective

_FUSED_DEVICES = ("cpu", "cuda")


class OptimizerSettings(Protocol):
    """What this file reads of `recipe.optimizer`."""

    @property
    def name(self) -> str: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def nesterov(self) -> bool: ...
    @property
    def state(self) -> str: ...
    @property
    def layer_decay(self) -> float: ...
    @property
    def args(self) -> Mapping[str, object]: ...


class _Divides(Whole, Protocol):
    """What this file reads of a world."""

    @property
    def sum_of_squares(self) -> SumOfSquares: ...
    def place_of(self, tensor: Tensor) -> tuple[tuple[int, ...], object, object]: ...


class _Moments(TypedDict):
    betas: tuple[float, float]
    eps: float


class _Norms(TypedDict, total=False):
    sum_of_squares: SumOfSquares
    values_of: Callable[[Tensor], int]


def build_optimizer(
    module: nn.Module,
    settings: OptimizerSettings,
    effective: Effective,
    world: _Divides | None = None,
    *,
    custom: Callable[..., Optimizer] | None = None,
    rename: Callable[[str], str] = str,
    seed: int = 0,
    trainable: Iterable[tuple[str, Tensor]] | None = None,
    depths: Depths | None = None,
) -> Optimizer:
    """Build the optimiser that the recipe names.

    Args:
        module: the model, already on its device.
        settings: `recipe.optimizer`.
        effective: learning rate, betas and eps, from `rules.batch_size.scaled`.
        world: gives LAMB and LARS the norms of whole tensors, and Muon whole matrices; None: this process holds them
            whole.
        custom: the class or function that `settings.name` refers to, when it is an import reference; called
            as `custom(groups, lr=…, **settings.args)` with the groups of `decay_groups`.
        rename: parameter name -> name in checkpoints.
        seed: of stochastic rounding: `seed.dropout`.
        trainable: name and tensor of what is trained, where that is not the module's own.
        depths: where parameters sit, for `layer_decay` and Muon; None: all count as inside one block.

    Returns:
        An optimiser whose groups carry `names`, `adapt` and `lr_scale`.

    Raises:
        RecipeError: no optimiser of that name, or options that it does not take.
        ModelError: nothing to train.
    """
    groups = decay_groups(
        module,
        settings.weight_decay,
        rename=rename,
        trainable=trainable,
        depths=depths,
        layer_decay=settings.layer_decay,
        matrices_apart=settings.name == "muon",
    )
    if not groups:
        raise ModelError(
            "every parameter of the model is frozen: nothing to train; expected model.trainable to match some"
        )
    if custom is not None:
        return _build_custom(custom, groups, settings, effective)
    args: dict[str, Any] = {"lr": effective.lr, **settings.args}
    momentum = {"momentum": settings.momentum, "nesterov": settings.nesterov}
    moments: _Moments = {"betas": effective.betas, "eps": effective.eps}
    norms: _Norms = {}
    if world is not None:
        norms = {
            "sum_of_squares": world.sum_of_squares,
            "values_of": lambda parameter: prod(world.place_of(parameter)[0]),
        }
    builders: dict[str, Callable[[], Optimizer]] = {
        "adamw": lambda: _adamw(groups, settings.state, effective, seed, args),
        "sgd": lambda: torch.optim.SGD(groups, **momentum, **args),
        "lamb": lambda: Lamb(groups, **moments, **norms, **args),
        "lars": lambda: Lars(groups, **momentum, **norms, **args),
        "lion": lambda: Lion(groups, betas=effective.betas, **args),
        "muon": lambda: _muon(groups, world, {**momentum, **moments, **args}),
        "schedule_free": lambda: schedule_free_adamw(groups, **moments, **args),
    }
    if settings.name not in builders:
        near = get_close_matches(settings.name, builders, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        what = f"unknown optimiser {settings.name!r}; known: {', '.join(builders)}, a reference{hint}"
        raise RecipeError([Problem(where="recipe", key="optimizer.name", what=what)])
    average = args.pop("average", None)
    build = builders[settings.name]
    return _called(build if average is None else lambda: averaged(build(), average), settings)


def _adamw(
    groups: list[dict[str, Any]], state: str, effective: Effective, seed: int, args: dict[str, Any]
) -> Optimizer:
    """AdamW with the state that the recipe asks for."""
    moments: _Moments = {"betas": effective.betas, "eps": effective.eps}
    if state == "bf16_sr":
        return AdamWBf16(groups, seed=seed, **moments, **args)
    if state == "8bit":
        return adamw_8bit(groups, **moments, **args)
    return torch.optim.AdamW(groups, fused=_can_fuse(groups), **moments, **args)


def _muon(groups: list[dict[str, Any]], world: Whole | None, args: dict[str, Any]) -> Optimizer:
    """Muon; `adamw_lr_ratio` is the learning rate of its other half / its own."""
    ratio = args.pop("adamw_lr_ratio", 1.0)
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or ratio <= 0:
        raise ValueError(f"muon: found adamw_lr_ratio {ratio!r}; expected a number above 0")
    for group in groups:
        group["lr_scale"] *= 1.0 if group["orthogonal"] else float(ratio)
    return Muon(groups, whole=world, **args)


def _build_custom(
    custom: Callable[..., Optimizer],
    groups: list[dict[str, Any]],
    settings: OptimizerSettings,
    effective: Effective,
) -> Optimizer:
    """Call the user's class or function."""
    optimizer = _called(lambda: custom(groups, **{"lr": effective.lr, **settings.args}), settings)
    if not isinstance(optimizer, Optimizer):
        what = f"{settings.name} returned {type(optimizer).__name__}; expected a torch.optim.Optimizer"
        raise RecipeError([Problem(where="recipe", key="optimizer.name", what=what)])
    for group in optimizer.param_groups:
        group.setdefault("lr_scale", 1.0)
    return optimizer


def _called(build: Callable[[], Optimizer], settings: OptimizerSettings) -> Optimizer:
    """Turn the complaints of an optimiser about its options into the user's words."""
    try:
        return build()
    except (TypeError, ValueError) as error:
        what = f"{settings.name} does not take these options: {error}"
        raise RecipeError([Problem(where="recipe", key="optimizer.args", what=what)]) from error


def _can_fuse(groups: list[dict[str, Any]]) -> bool | None:
    """Whether one kernel can do the update; None: torch decides.

    On 2 cores, 22.7M parameters: fused 27 ms, foreach 183, loop 204.
    """
    parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
    devices = {parameter.device.type for parameter in parameters}
    return True if devices <= set(_FUSED_DEVICES) and all(p.is_floating_point() for p in parameters) else None


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr` times the group's `lr_scale` (1 unless layers differ)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def set_scaled(optimizer: Optimizer, betas: tuple[float, float], eps: float) -> None:
    """Give every group that has them other betas and another eps; averages so far are kept, and stay debiased.

    Args:
        optimizer: as `build_optimizer` gives it.
        betas: decay of the first and the second average.
        eps: added to the root of the second.
    """
    for group in optimizer.param_groups:
        set_betas(group, optimizer.state, betas)
        if "eps" in group:
            group["eps"] = eps

"""Losses, one value per unit and never a mean; class weights; losses of your own.

Shapes: U units, C outputs per unit. The step multiplies weights in, sums and divides once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bigbatch.errors import Problem, RecipeError
from bigbatch.recipe.references import is_reference, resolve_reference
from bigbatch.samples import Targets

if TYPE_CHECKING:
    from bigbatch.recipe.learning import LossSpec

Kind = Literal["single", "multi", "regression"]
IGNORED = -100
"""Class id of a unit without a label (Hugging Face's and torch's `ignore_index`)."""


def cross_entropy(logits_UC: Tensor, values_U: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(logits)[value], nats.

    With smoothing e: (1-e) times that plus e/C times the sum over all classes (torch's definition).

    Args:
        logits_UC: (U, C).
        values_U: (U,) int64 class ids; -100 gives 0.
        label_smoothing: fraction, 0 to 1.

    Returns:
        (U,), at least fp32.

    Reference:
        Szegedy et al. 2016, arXiv 1512.00567, section 7, for the smoothing; differs from it in nothing.

    Example:
        >>> losses = cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, -100]))
        >>> [round(loss, 4) for loss in losses.tolist()]
        [0.6931, 0.0]
    """
    return functional.cross_entropy(
        _at_least_fp32(logits_UC), values_U.long(), reduction="none", label_smoothing=label_smoothing
    )


def bce(logits_UC: Tensor, values_UC: Tensor, *, positive_weights_C: Sequence[float] | None = None) -> Tensor:
    """Binary cross-entropy with logits (U, C) against 0/1 (U, C), mean over the labels of a unit: (U,) nats.

    With weights w: -(w_c y log p + (1 - y) log(1 - p)), torch's `pos_weight`. The mean stays one over labels.

    Args:
        logits_UC: (U, C); computed in fp32 at least.
        values_UC: (U, C) zeros and ones.
        positive_weights_C: (C,) w; None: all are 1.
    """
    logits_UC = _at_least_fp32(logits_UC)
    weights_C = None if positive_weights_C is None else logits_UC.new_tensor(positive_weights_C)
    return functional.binary_cross_entropy_with_logits(
        logits_UC, values_UC.to(logits_UC.dtype), reduction="none", pos_weight=weights_C
    ).mean(-1)


def mse(outputs_UC: Tensor, values: Tensor) -> Tensor:
    """Squared error of outputs (U, C) against (U,) or (U, C), mean over the outputs of a unit: (U,)."""
    outputs_UC = _at_least_fp32(outputs_UC)
    return (outputs_UC - values.to(outputs_UC.dtype).reshape(outputs_UC.shape)).square().mean(-1)


def _at_least_fp32(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


DEFAULTS: Mapping[str, tuple[str, Callable[..., Tensor]]] = {
    "single": ("cross_entropy", cross_entropy),
    "multi": ("bce", bce),
    "regression": ("mse", mse),
}
"""Kind of task -> name and function of its loss. `cross_entropy` in a recipe means the kind's own."""


@dataclass(frozen=True, kw_only=True)
class UnitLoss:
    """A loss function with its options; calling it gives one unweighted value per unit."""

    name: str
    """Name of the loss term in records."""
    function: Callable[..., Tensor]
    args: Mapping[str, Any] = field(default_factory=dict)
    wants_extras: bool = False
    """Whether the function has a parameter `extras`: a mapping of (U,) tensors."""

    def __call__(self, outputs_UC: Tensor, targets: Targets) -> Tensor:
        """(U,) values.

        Raises:
            RecipeError: the function returned something else than one value per unit.
        """
        extras = {"extras": targets.extras} if self.wants_extras else {}
        # Functions of your own index with class ids: an ignored unit reads class 0, and is masked afterwards.
        integers = not torch.is_floating_point(targets.values)
        values = targets.values.clamp(min=0) if integers else targets.values
        losses_U = self.function(outputs_UC, values, **extras, **self.args)
        self._check(losses_U, len(outputs_UC))
        return losses_U

    def _check(self, losses_U: Any, units: int) -> None:
        if isinstance(losses_U, Tensor) and losses_U.shape == (units,):
            return
        if isinstance(losses_U, Tensor):
            scalar = losses_U.ndim == 0
            found = "a scalar" if scalar else f"shape {tuple(losses_U.shape)} for {units} units"
        else:
            found = f"a {type(losses_U).__name__}"
        what = f"a custom loss returns one value per unit (reduction='none'); this one returned {found}"
        raise RecipeError([Problem(where=f"loss {self.name}", key="loss.name", what=what)])


def shares_of(losses: Mapping[str, Tensor], denominators: Mapping[str, float]) -> dict[str, Tensor]:
    """Per term, these units' share of the batch's loss (): their sum / the batch's denominator.

    A term of which nothing counts in the whole batch has no share, instead of 0/0.
    """
    return {
        term: values.sum() / denominators[term] if denominators[term] else torch.zeros_like(values.sum())
        for term, values in losses.items()
    }


def default_loss(kind: Kind) -> UnitLoss:
    """The loss of a kind of task."""
    name, function = DEFAULTS[kind]
    return UnitLoss(name=name, function=function)


def resolve_loss(settings: LossSpec, base: Path, *, kind: Kind = "single", where: str = "recipe") -> UnitLoss:
    """The loss that `loss:` of a recipe names.

    Args:
        settings: `recipe.loss`: name, label_smoothing, args.
        base: folder that `file.py:name` is relative to.
        kind: kind of task, which decides what `cross_entropy` means.
        where: file, for messages.

    Raises:
        RecipeError: unknown name, or label smoothing with a loss that has none.
    """
    name = settings.name or "cross_entropy"
    smoothing = float(settings.label_smoothing or 0.0)
    own_name, own_function = DEFAULTS[kind]
    custom = is_reference(name)
    if smoothing and (custom or kind != "single"):
        what = "smooths class labels; " + (
            "write it into your own loss" if custom else f"kind {kind} has none"
        )
        raise RecipeError([Problem(where=where, key="loss.label_smoothing", what=what)])
    if custom:
        return own_loss(resolve_reference(name, base), settings.args or {})
    if name not in ("cross_entropy", own_name):
        raise RecipeError([Problem(where=where, key="loss.name", what=_unknown_loss(name, kind, own_name))])
    if settings.args:
        what = f"{own_name} takes no args; args are for a loss of your own"
        raise RecipeError([Problem(where=where, key="loss.args", what=what)])
    return UnitLoss(
        name=own_name, function=own_function, args={"label_smoothing": smoothing} if smoothing else {}
    )


def refuse_loss(settings: LossSpec, because: str, where: str) -> None:
    """Refuse anything but the usual, of a task whose loss is its own.

    Args:
        settings: the recipe's `loss`.
        because: what is said to it.
        where: file, for messages.

    Raises:
        RecipeError: naming the keys.
    """
    asked = {
        "name": settings.name != "cross_entropy",
        "label_smoothing": bool(settings.label_smoothing),
        "class_weights": settings.class_weights != "none",
        "args": bool(settings.args),
    }
    refuse_settings({key: because for key, is_so in asked.items() if is_so}, where)


def refuse_settings(wrong: Mapping[str, str], where: str) -> None:
    """Refuse what is wrong in `loss:`, all of it at once.

    Args:
        wrong: key -> what is said to it.
        where: file, for messages.

    Raises:
        RecipeError: naming the keys, if there are any.
    """
    if wrong:
        raise RecipeError([Problem(where=where, key=f"loss.{key}", what=what) for key, what in wrong.items()])


def own_loss(function: Callable[..., Tensor], args: Mapping[str, Any]) -> UnitLoss:
    """A loss of the user's own: `fn(logits, targets, **args)`, one value per unit."""
    name = getattr(function, "__name__", "custom")
    return UnitLoss(name=name, function=function, args=dict(args), wants_extras=_has_extras(function))


def _unknown_loss(name: str, kind: str, own_name: str) -> str:
    known = [known for known, _ in DEFAULTS.values()]
    if name in known:
        return f"{name} does not fit kind {kind}, whose loss is {own_name}"
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown loss {name!r}{hint} (known: {', '.join(known)}, or a reference such as losses.py:focal)"


def _has_extras(function: Callable[..., Any]) -> bool:
    try:
        return "extras" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def class_weights(
    setting: str | Mapping[str, float], names: Sequence[str], values_U: np.ndarray, *, where: str = "recipe"
) -> tuple[float, ...] | None:
    """Weight of each class: `balanced` is n / (C n_c), scikit-learn's definition, over the training rows.

    Args:
        setting: `none`, `balanced`, or label name -> weight (others have 1).
        names: the C label names, in class order.
        values_U: (U,) class ids of the training table; -100 is not counted.
        where: file, for messages.

    Returns:
        C weights, or None for `none`. A class without training rows has weight 1 when balanced.

    Raises:
        RecipeError: a name that is no label; a negative or infinite weight.
    """
    if isinstance(setting, str):
        if setting == "none":
            return None
        if setting != "balanced":
            what = f"found {setting!r}; expected none, balanced or a mapping of label names to weights"
            raise RecipeError([Problem(where=where, key="loss.class_weights", what=what)])
        counts_C = np.bincount(values_U[values_U >= 0].astype(np.int64), minlength=len(names))
        total = int(counts_C.sum())
        return tuple(total / (len(names) * int(count)) if count else 1.0 for count in counts_C)
    weights = {str(label): float(weight) for label, weight in setting.items()}
    problems = [_weight_problem(label, weight, names, where) for label, weight in weights.items()]
    if any(problems):
        raise RecipeError([problem for problem in problems if problem])
    return tuple(weights.get(name, 1.0) for name in names)


def check_weighable(kind: Kind, loss: UnitLoss | None, *, where: str = "recipe") -> None:
    """Refuse class weights where there are no classes, or where a loss of the user's own would have to know them.

    Args:
        kind: what is predicted of a unit.
        loss: the task's; None: the usual one of its kind.
        where: the place that a message names.

    Raises:
        RecipeError: naming the key.
    """
    if kind == "single" or (kind == "multi" and loss in (None, default_loss(kind))):
        return
    what = "weights are for classes, and kind regression has none"
    if kind == "multi":
        what = "of several labels each has its own weight inside the loss: give a loss of your own its weights as args"
    raise RecipeError([Problem(where=where, key="loss.class_weights", what=what)])


def positive_weights(
    setting: str | Mapping[str, float], names: Sequence[str], values_UC: np.ndarray, *, where: str = "recipe"
) -> tuple[float, ...] | None:
    """Weight of each label where it applies: `balanced` is rows without it / rows with it, so that both count alike.

    Args:
        setting: as `class_weights` has it.
        names: the C label names, in order.
        values_UC: (U, C) zeros and ones of the training table.
        where: file, for messages.

    Returns:
        C weights, or None for `none`. A label that no row or every row has weighs 1 when balanced.

    Raises:
        RecipeError: as `class_weights`.
    """
    if setting != "balanced":
        return class_weights(setting, names, np.empty(0, np.int64), where=where)
    with_C = np.count_nonzero(values_UC, axis=0).tolist()
    rows = len(values_UC)
    return tuple((rows - count) / count if 0 < count < rows else 1.0 for count in with_C)


def _weight_problem(label: str, weight: float, names: Sequence[str], where: str) -> Problem | None:
    key = f"loss.class_weights.{label}"
    if label not in names:
        near = get_close_matches(label, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
        return Problem(where=where, key=key, what=f"{label!r} is no label{hint} (labels: {shown})")
    if not 0 <= weight < float("inf"):
        return Problem(where=where, key=key, what=f"found {weight}; expected a number from 0 up")
    return None

"""Schedule-free AdamW, from the package `schedulefree`: no decay of the rate, an average of the weights instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from bigbatch.errors import Problem, RecipeError

_KEPT = "y"
"""State of a parameter while the model holds x: where its training goes on."""


def schedulefree() -> Any:
    """The package.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import schedulefree as found  # type: ignore[import-not-found]
    except ImportError as error:
        what = (
            f"schedule_free needs schedulefree ({error}); pip install 'bigbatch[schedulefree]', or take adamw"
        )
        raise RecipeError([Problem(where="recipe", key="optimizer.name", what=what)]) from error
    return found


def schedule_free_adamw(
    groups: list[dict[str, Any]], lr: float, *, betas: tuple[float, float], eps: float, **options: object
) -> Optimizer:
    """AdamWScheduleFree, made to fit: changing between its two sets of weights loses no bit, and checkpoints hold all.

    ::

        y = (1 - b1) z + b1 x        gradients are taken at y, z takes AdamW's steps, x is the average of z

    While it trains, the model holds y. `eval()` puts x into the model, which is what evaluations, checkpoints and the
    exported model want, and keeps y; `train()` puts y back. The package computes y from x again, which rounds: an
    evaluation would change the run.

    Args:
        groups: of `decay_groups`.
        lr: learning rate.
        betas: b1 of the interpolation, b2 of the squared gradient's average.
        eps: added to the root.
        options: further options of the package's class.

    Raises:
        RecipeError: schedulefree is not installed.

    Reference:
        Defazio et al. 2024, arXiv 2405.15682, "The road less scheduled". Differs from the package in what an evaluation
        leaves behind, as above; the steps are its own.

    Example:
        ::

            optimizer: {name: schedule_free}
            schedule: constant
    """

    class AdamWScheduleFree(schedulefree().AdamWScheduleFree):
        """The class of the package, with an exact `train` after `eval`, and `group_state` for checkpoints."""

        group_state = ("k", "weight_sum", "lr_max", "train_mode")
        """Entries of a group that a step changes."""

        @torch.no_grad()
        def eval(self) -> None:
            """Put x into the parameters, unless it is there."""
            for group in self.param_groups:
                if group["train_mode"]:
                    for parameter in group["params"]:
                        if "z" in self.state[parameter]:
                            self.state[parameter][_KEPT] = parameter.detach().clone()
            super().eval()

        @torch.no_grad()
        def train(self) -> None:
            """Put y back, bit for bit."""
            for group in self.param_groups:
                if not group["train_mode"]:
                    for parameter in group["params"]:
                        kept = self.state[parameter].pop(_KEPT, None)
                        if kept is not None:
                            parameter.copy_(kept)
                    group["train_mode"] = True

        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            self.train()
            return super().step(closure)

    return AdamWScheduleFree(groups, lr=lr, betas=betas, eps=eps, **options)

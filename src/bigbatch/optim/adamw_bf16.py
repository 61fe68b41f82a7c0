"""AdamW whose weights and averages are bf16 numbers, rounded stochastically (`optimizer.state: bf16_sr`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bigbatch.optim.rounding import random_bits, rounding_seed, stochastic_bf16

_AVERAGES = ("exp_avg", "exp_avg_sq")


class AdamWBf16(Optimizer):
    """AdamW of Loshchilov and Hutter 2019, computed in fp32, kept in bf16.

    ::

        m = SR(b1 m + (1 - b1) g)      v = SR(b2 v + (1 - b2) g^2)      SR: stochastic rounding to bf16
        w = SR(w - lr wd w - lr m_hat / (sqrt(v_hat) + eps))

    The direction is computed from m and v before they are rounded. After its first update every weight is a
    bf16 number. Its tensor may stay fp32 (gradients are then summed in fp32, and any precision can compute with
    it); the averages are stored in bf16: 4 bytes a parameter instead of 8. v needs the chance too: it moves by
    1 - b2 = 0.001 of itself at a time, less than half of what bf16 tells apart.

    Args:
        params: parameters, or groups; a group's `names` (see `decay_groups`) name its parameters.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the root of the second average.
        weight_decay: decoupled decay.
        seed: of the random bits, which are a function of (seed, update, name) alone.

    Reference:
        Zamirai et al. 2020, arXiv 2010.06192, "Revisiting BFloat16 training". Differs from it: the averages are
        rounded stochastically too.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        seed: int = 0,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"adamw: lr {lr} and eps {eps} must be >= 0, betas {betas} in [0, 1)")
        self._seed = seed
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients as they stand; `.grad` is only read."""
        assert closure is None, "the engine computes gradients before the step"
        for group in self.param_groups:
            names = group.get("names") or [str(index) for index in range(len(group["params"]))]
            for parameter, name in zip(group["params"], names, strict=True):
                if parameter.grad is not None:
                    self._move(group, parameter, name)

    def _move(self, group: dict[str, Any], parameter: Tensor, name: str) -> None:
        state = self._state_of(parameter)
        state["step"] += 1
        state["applied"] += 1
        count = float(state["step"])  # other than `applied` once betas have changed
        first, second = group["betas"]
        gradient = parameter.grad.float()  # type: ignore[union-attr]
        mean = state["exp_avg"].float().lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].float().mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = (square / (1 - second**count)).sqrt_().add_(group["eps"])
        weight = parameter.float() * (1 - group["lr"] * group["weight_decay"])
        weight.addcdiv_(mean, root, value=-group["lr"] / (1 - first**count))
        bits = random_bits(parameter, rounding_seed(self._seed, state["applied"], name))
        parameter.copy_(stochastic_bf16(weight, bits))
        state["exp_avg"].copy_(stochastic_bf16(mean, bits >> 16))
        state["exp_avg_sq"].copy_(stochastic_bf16(square, bits >> 32))

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        """Averages of a parameter, zero at its first gradient."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["applied"] = 0
            for name in _AVERAGES:
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which gives every state the parameter's dtype: the averages become bf16 again, bit for bit."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state.setdefault("applied", int(state["step"]))  # checkpoints from before it was kept
            for name in _AVERAGES:
                state[name] = state[name].bfloat16()

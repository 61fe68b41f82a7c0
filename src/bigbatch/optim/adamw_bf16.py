"""AdamW whose weights and averages are bf16 numbers, rounded stochastically (`optimizer.state: bf16_sr`).

A number between two neighbours a < x < b becomes b with probability (x - a) / (b - a), so that the mean of many
roundings is the number itself. An update too small for the format is then not lost: it moves the weight once in a
while, by a whole step.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


_DROPPED = 0xFFFF
"""The 16 bits of an fp32 number that bf16 does not have."""


def rounding_seed(seed: int, update: int, name: str) -> int:
    """63-bit seed of one parameter's random bits in one update, equal on every machine and any number of ranks.

    Args:
        seed: `seed.dropout` of the recipe.
        update: number of the update that is applied, as the optimiser counts (skipped ones do not count).
        name: the parameter's name in checkpoints.
    """
    digest = hashlib.blake2b(struct.pack("<2q", seed, update) + name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def random_bits(like: Tensor, seed: int) -> Tensor:
    """63 random bits for each value of a whole parameter, int64 in its shape: enough for three roundings."""
    generator = torch.Generator(device=like.device).manual_seed(seed)
    return torch.empty(like.shape, dtype=torch.int64, device=like.device).random_(generator=generator)


def stochastic_bf16(values: Tensor, bits: Tensor) -> Tensor:
    """Round fp32 values to bf16 by chance; the result has E[rounded] = value.

    Args:
        values: fp32.
        bits: integers of the same shape; their lowest 16 bits decide.

    Returns:
        bf16. What is not finite stays as it is.

    Example:
        >>> value = torch.tensor([1.0 + 2.0**-8])  # half-way between 1 and its neighbour 1.0078125
        >>> [stochastic_bf16(value, torch.tensor([bits])).item() for bits in (0x7FFF, 0x8000)]
        [1.0, 1.0078125]
    """
    # Adding 16 random bits to the dropped ones carries into the kept ones with the right probability; floats
    # are ordered like integers of their magnitude, so this holds for both signs.
    raised = values.view(torch.int32) + (bits & _DROPPED).to(torch.int32)
    # What is left has no dropped bits, so the conversion itself does not round.
    chosen = (raised & ~_DROPPED).view(torch.float32)
    return torch.where(values.isfinite(), chosen, values).bfloat16()


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

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> weight.grad = torch.tensor([1.0, -3.0])
        >>> AdamWBf16([weight], lr=0.25, weight_decay=0.0, eps=0.0).step()
        >>> weight.tolist()
        [0.75, -1.75]
    """

    def __init__(
        self,
        params: ParamsT,
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
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
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

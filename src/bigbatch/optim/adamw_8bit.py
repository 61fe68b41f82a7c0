"""AdamW with averages in blocks of 8 bits, from torchao (`optimizer.state: 8bit`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bigbatch.errors import Problem, RecipeError
from bigbatch.private import keep_compiled_code_private

_SIGNED = {"exp_avg": True, "exp_avg_sq": False}
_CONSTANT = "qmap"
"""torchao's table of the 256 values that a code can mean: the same in every tensor, so no checkpoint holds it."""


def torchao_optim() -> Any:
    """The module `torchao.optim`.

    Raises:
        RecipeError: torchao is not installed.
    """
    try:
        import torchao.optim as found  # type: ignore[import-not-found]
    except ImportError as error:
        what = f"8bit needs torchao ({error}); pip install 'bigbatch[torchao]', or take fp32 | bf16_sr"
        raise RecipeError([Problem(where="recipe", key="optimizer.state", what=what)]) from error
    return found


def adamw_8bit(
    groups: list[dict[str, Any]], lr: float, *, betas: tuple[float, float], eps: float, **options: object
) -> Optimizer:
    """AdamW8bit of torchao, made to fit: float learning rates, and state that checkpoints can hold.

    Tensors of fewer than 4,096 values, or not a multiple of 256, keep fp32 averages, as in torchao.

    Args:
        groups: of `decay_groups`.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the root of the second average.
        options: further options of torchao's class.

    Raises:
        RecipeError: torchao is not installed.

    Reference:
        Dettmers et al. 2021, arXiv 2110.02861, "8-bit optimizers via block-wise quantization". Differs from it, as
        torchao does: blocks of 256 values, and embeddings are nothing special.

    Example:
        ::

            optimizer: {name: adamw, state: 8bit}
    """
    keep_compiled_code_private()

    class AdamW8bit(torchao_optim().AdamW8bit):
        """The class of torchao, with `flat_state` and `whole_state` for checkpoints."""

        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            on_cpu = all(p.device.type == "cpu" for group in self.param_groups for p in group["params"])
            for group in self.param_groups:
                if not isinstance(group["lr"], Tensor):  # torchao would compile anew for every number
                    group["lr"] = torch.tensor(group["lr"], dtype=torch.float32)
            # On a CPU compiling takes 10 s a shape and saves less than it costs.
            with torch.compiler.set_stance("force_eager") if on_cpu else nullcontext():
                return super().step(closure)

        def flat_state(self, key: str, value: Tensor) -> dict[str, Tensor] | None:
            """`exp_avg` -> `exp_avg.codes`, `exp_avg.scale`; None for a plain tensor."""
            if type(value) is Tensor or not hasattr(value, "__tensor_flatten__"):
                return None
            names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
            return {f"{key}.{name}": getattr(value, name) for name in names if name != _CONSTANT}

        def whole_state(
            self, parameter: Tensor, parts: Mapping[str, Tensor | float]
        ) -> dict[str, Tensor | float]:
            """The inverse, for all states of one parameter."""
            whole = {key: value for key, value in parts.items() if "." not in key}
            for key, signed in _SIGNED.items():
                if f"{key}.codes" in parts:
                    whole[key] = self._new_buffer(parameter, signed)
                    for name in ("codes", "scale"):
                        getattr(whole[key], name).copy_(parts[f"{key}.{name}"])
            return whole

    return AdamW8bit(groups, lr=lr, betas=betas, eps=eps, **options)

"""The optimisers by name: the one list of what holds of each before any is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """What a recipe, a plan and the rules of batch sizes know of an optimiser. The defaults hold of AdamW."""

    lr: float
    """Its usual rate."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Other keys of the recipe whose default depends on the name."""
    state: float = 2.0
    """fp32 tensors per trainable parameter that it keeps between updates."""
    temporaries: float = 0.0
    """fp32 tensors per parameter that a step needs for a moment."""
    like_sgd: bool = False
    """Whether its step grows with the gradient, without betas; the others divide by the gradient's size, or take its
    direction alone."""
    eps: bool = True
    """Whether something is added to the root of its second moment."""
    one_length: bool = False
    """Whether its step has one length whatever the noise: the rules of the rate were derived for others."""


OPTIMIZERS: Mapping[str, OptimizerKind] = {
    "adamw": OptimizerKind(lr=5e-5),  # the usual fine-tuning rate
    "sgd": OptimizerKind(lr=1e-2, state=1.0, like_sgd=True, eps=False),
    # You et al. 2020, table 3: BERT at 512 samples
    "lamb": OptimizerKind(lr=6.25e-4, defaults={"eps": 1e-6}, temporaries=2.0),
    # With its trust and momentum a tensor moves by a thousandth of its norm.
    "lars": OptimizerKind(lr=1e-1, state=1.0, like_sgd=True, eps=False),
    # A fifth of AdamW's.
    "lion": OptimizerKind(lr=1e-5, defaults={"betas": (0.9, 0.99)}, state=1.0, eps=False, one_length=True),
    # With Moonlight's scale AdamW's rate. It keeps 1 or 2 tensors, and counts as 2.
    "muon": OptimizerKind(
        lr=5e-5, defaults={"momentum": 0.95, "nesterov": True}, temporaries=1.0, one_length=True
    ),
    # Twice AdamW's. A third tensor while the model holds the average.
    "schedule_free": OptimizerKind(lr=1e-4, state=3.0, temporaries=1.0),
}
AVERAGED = 2.0
"""fp32 tensors per trainable parameter that `args.average` adds: the average, and the weights while it is evaluated."""
_OWN = OptimizerKind(lr=OPTIMIZERS["adamw"].lr)
"""An optimiser of the user's own: what holds of most."""


def kind_of_optimizer(name: str) -> OptimizerKind:
    """What is known of an optimiser by the name that a recipe gives it, a reference to one of the user's own too."""
    return OPTIMIZERS.get(name, _OWN)


def state_multiple(name: str, momentum: float = 0.9, state: str = "fp32") -> float:
    """fp32 tensors of optimiser state per trainable parameter: AdamW and LAMB 2, with momentum alone 1, without 0.

    `bf16_sr` halves AdamW's; `8bit` quarters it and adds one fp32 scale a block of 256.

    Args:
        name: `optimizer.name`.
        momentum: of SGD and LARS; 0 keeps no state.
        state: `fp32`, `bf16_sr` or `8bit` (AdamW alone).
    """
    if state != "fp32":
        return {"bf16_sr": 1.0, "8bit": 0.5 + 2 / 256}[state]
    kind = kind_of_optimizer(name)
    return 0.0 if kind.like_sgd and not momentum else kind.state

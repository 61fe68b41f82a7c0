"""Which parameters an optimiser gets, which of them decay, and how fast each learns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from bigbatch.optim.depths import Depths


def decay_groups(
    module: nn.Module,
    weight_decay: float = 0.0,
    *,
    rename: Callable[[str], str] = str,
    trainable: Iterable[tuple[str, Tensor]] | None = None,
    depths: Depths | None = None,
    layer_decay: float = 1.0,
    matrices_apart: bool = False,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Matrices (linear layers, convolutions, embeddings) decay; parameters with fewer than two dimensions
    (biases, the scales and shifts of norms) do not, and LAMB and LARS leave their step length alone. A tied
    parameter is in its group once, under its first name; a frozen one in none. Parameters are in the order of
    `module.named_parameters()`; an empty group is left out.

    With `layer_decay` xi there are such groups for each depth, the head's first: its rate is lr, the last block's
    lr xi, the first of L blocks' lr xi^L, the embeddings' lr xi^(L+1).

    Args:
        module: the model.
        weight_decay: of the groups that decay.
        rename: parameter name -> name in checkpoints (strips the prefixes of wrappers).
        trainable: name and tensor of what is trained, where that is not the module's own: parts of its parameters.
        depths: where parameters sit; None: nobody knows, all are alike.
        layer_decay: learning rate of a layer / that of the one above it.
        matrices_apart: whether matrices inside blocks are in groups of their own, with `orthogonal: True`.

    Returns:
        Parameter groups for a torch optimiser, with keys of ours: `names` (checkpoint name of each
        parameter), `adapt` (whether LAMB and LARS rescale the step), `lr_scale` (see `set_lr`), `orthogonal` (Muon).

    Reference:
        Clark et al. 2020, arXiv 2003.10555, appendix B, for the decay by layer. Differs from it: there the last
        block has xi^2; here, as in BEiT and timm, xi.

    Example:
        `optimizer: {lr: 1e-4, layer_decay: 0.9}` with 12 blocks: the head learns at 1e-4, the last block at 9e-5, the
        first at 2.8e-5, the embeddings at 2.5e-5.
    """
    if trainable is None:
        trainable = ((name, item) for name, item in module.named_parameters() if item.requires_grad)
    found: dict[tuple[int, int, int], list[tuple[str, Tensor]]] = {}
    for raw_name, parameter in trainable:
        name = rename(raw_name)
        steps = depths.below_head(name) if depths is not None and layer_decay != 1 else 0
        decays = parameter.ndim >= 2
        inside = depths is None or depths.in_block(name)
        apart = matrices_apart and parameter.ndim == 2 and inside
        found.setdefault((steps, 1 - decays, 1 - apart), []).append((name, parameter))
    return [
        _group(
            named,
            0.0 if vectors else weight_decay,
            adapt=not vectors,
            lr_scale=layer_decay**steps,
            **({"orthogonal": not others} if matrices_apart else {}),
        )
        for (steps, vectors, others), named in sorted(found.items(), key=lambda entry: entry[0])
    ]


def _group(named: list[tuple[str, Tensor]], weight_decay: float, **keys: object) -> dict[str, Any]:
    return {
        "params": [parameter for _, parameter in named],
        "names": [name for name, _ in named],
        "weight_decay": weight_decay,
        **keys,
    }


def names_of(groups: list[dict[str, Any]]) -> dict[Tensor, str]:
    """Checkpoint name of every parameter, in the order of the groups (`optimizer.param_groups` will do)."""
    return {
        parameter: name
        for group in groups
        for parameter, name in zip(group["params"], group["names"], strict=True)
    }

"""New layers for another number of labels, drawn from a seed; the global generators are left as they were."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from bigbatch.errors import ModelError


def renew_outputs(outer: nn.Module, outputs: int, *, seed: int, besides: Collection[str] = ()) -> bool:
    """Replace the layers whose shape follows the number of labels by new ones, seeded; says whether any was.

    Args:
        outer: the model.
        outputs: the number of labels.
        seed: of the new weights.
        besides: names of parameters that are new already; a layer that has one is left as it is.
    """
    renewed = False
    for name in output_layers(outer):
        if f"{name}.weight" in besides:
            continue
        old = outer.get_submodule(name)
        if not isinstance(old, (nn.Linear, nn.Embedding)):
            raise ModelError(f"{name} is a {type(old).__name__}; build the model with num_labels={outputs}")
        place, dtype = old.weight.device, old.weight.dtype
        # A detector's has one more, for what is no object.
        wide = old.weight.shape[0] - (cast(PreTrainedModel, outer).config.num_labels or 0) + outputs
        if isinstance(old, nn.Embedding):  # of RT-DETR, for training with noise beside the boxes
            last = None if old.padding_idx is None else wide - 1
            new = nn.Embedding(wide, old.embedding_dim, padding_idx=last, device="meta")
        else:
            new = nn.Linear(old.in_features, wide, bias=old.bias is not None, device="meta")
        new = new.to_empty(device="cpu")
        with seeded(seed):
            cast(PreTrainedModel, outer)._init_weights(new)
        new.requires_grad_(old.weight.requires_grad)
        parent, _, child = name.rpartition(".")
        setattr(outer.get_submodule(parent), child, new.to(device=place, dtype=dtype))
        renewed = True
    return renewed


def output_layers(outer: nn.Module) -> list[str]:
    """Modules whose parameters change shape with the number of labels: built twice, without memory."""
    shapes, model = [], cast(PreTrainedModel, outer)
    labels: int = model.config.num_labels or 0
    for extra in (0, 1):
        config = copy.deepcopy(model.config)
        config.num_labels = labels + extra
        with torch.device("meta"), seeded(0):
            built = type(model)(config)
        shapes.append({name: item.shape for name, item in built.named_parameters()})
    return list(
        dict.fromkeys(name.rpartition(".")[0] for name in shapes[0] if shapes[0][name] != shapes[1][name])
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU generator seeded inside, as it was outside."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield

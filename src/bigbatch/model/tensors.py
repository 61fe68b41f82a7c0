"""All tensors of a model by their clean names: what checkpoints hold, and what identifies the weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from bigbatch.model.adapters import has_adapters
from bigbatch.model.names import aliases, clean_name, named_parameters, unwrap

_WRAPPED, _LAYER, _COPIED = "base_model.model.", ".base_layer.", ".original_module."
"""In names that PEFT gives: of its wrapper, of a layer with adapters, of a head of which it trains a copy."""


def named_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parameters and persistent buffers, frozen ones too, each tied tensor once.

    Returns:
        Clean name -> the module's own tensor (not a copy); further names of tied tensors -> the stored name.
    """
    persistent = {clean_name(name) for name in module.state_dict()}
    buffers = {clean_name(name): buffer for name, buffer in module.named_buffers()}
    kept = {name: buffer for name, buffer in buffers.items() if name in persistent}
    return {**named_parameters(module), **kept}, aliases(module)


def saved_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What checkpoints hold: all of `named_tensors`; of a model with adapters what is trained, and the buffers."""
    tensors, same = named_tensors(module)
    if not has_adapters(module):
        return tensors, same
    kept = {name: each for name, each in tensors.items() if not _stays(each)}
    return kept, {name: stored for name, stored in same.items() if stored in kept}


def base_digest(module: nn.Module) -> str:
    """sha256 (hex) of what no checkpoint of a model with adapters holds; empty for a model without."""
    if not has_adapters(module):
        return ""
    return _tensors_digest(_base_tensors(module))


def plain_digest(module: nn.Module, *, like: nn.Module) -> str:
    """`base_digest` as it would be if the adapters of another model were in this one.

    Args:
        module: without adapters.
        like: with adapters.
    """
    plain = named_tensors(module)[0]
    return _tensors_digest({name: plain[name] for name in _base_tensors(like) if name in plain})


def _base_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What never moves, under the names that it has in the model without adapters."""
    found = named_tensors(module)[0]
    return {
        name.removeprefix(_WRAPPED).replace(_LAYER, "."): each
        for name, each in found.items()
        if _stays(each) and _COPIED not in name
    }


def _stays(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _tensors_digest(tensors: dict[str, Tensor], settings: str = "") -> str:
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def module_digest(module: nn.Module) -> str:
    """sha256 (hex) of what training starts from: every bit of every tensor, what is frozen, and the settings."""
    settings = json.dumps(_settings(module), sort_keys=True, default=_plain)
    return _tensors_digest(named_tensors(module)[0], settings)


def _settings(module: nn.Module) -> dict[str, Any]:
    """What decides the outputs and the gradient beside the tensors: equal weights may be trained differently."""
    inner: Any = unwrap(module)
    config = inner.config.to_dict() if hasattr(inner, "config") and hasattr(inner.config, "to_dict") else {}
    return {
        "class": type(inner).__qualname__,
        "config": {key: value for key, value in config.items() if key != "transformers_version"},
        "adapters": {name: vars(each) for name, each in getattr(inner, "peft_config", {}).items()},
        "dropout": {clean_name(name): part.p for name, part in module.named_modules() if hasattr(part, "p")},
        "frozen": sorted(name for name, item in named_parameters(module).items() if not item.requires_grad),
    }


def _plain(value: Any) -> Any:
    """Sets in an order that is the same in every process."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)

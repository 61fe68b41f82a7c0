"""All tensors of a model by their clean names: what checkpoints hold, and what identifies the weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from bigbatch.model.names import aliases, clean_name, named_parameters, unwrap


def named_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parameters and persistent buffers, frozen ones too, each tied tensor once.

    Returns:
        Clean name -> the module's own tensor (not a copy); further names of tied tensors -> the stored name.
    """
    persistent = {clean_name(name) for name in module.state_dict()}
    buffers = {clean_name(name): buffer for name, buffer in module.named_buffers()}
    kept = {name: buffer for name, buffer in buffers.items() if name in persistent}
    return {**named_parameters(module), **kept}, aliases(module)


def module_digest(module: nn.Module) -> str:
    """sha256 (hex) of what training starts from: every bit of every tensor, what is frozen, and the settings."""
    digest = hashlib.sha256(json.dumps(_settings(module), sort_keys=True, default=_plain).encode())
    for name, tensor in sorted(named_tensors(module)[0].items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


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

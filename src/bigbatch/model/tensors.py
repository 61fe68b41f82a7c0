"""All tensors of a model by their clean names: what checkpoints hold, and what identifies the weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from bigbatch.model.names import aliases, clean_name, named_parameters


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
    """sha256 (hex) of names, dtypes, shapes and bits of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named_tensors(module)[0].items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""A live model's numbers as loading by name would give them: fp32 weights and buffers, tied as its configuration says.

transformers opens a checkpoint of 16 bits in 16 bits. Trained in place there, an update smaller than half a unit of the
last of 8 bits is lost: at usual rates nearly all of them, of normalisation weights all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError

_PLAIN = (torch.float32, torch.float16, torch.bfloat16)


def full_precision(module: nn.Module) -> list[str]:
    """Make every weight and floating buffer fp32, in place; a model that is fp64 throughout stays so.

    The parameters stay the same objects, so that what is tied stays tied and what is frozen stays frozen.

    Returns:
        Notes of what changed.

    Raises:
        ModelError: weights that are elsewhere (meta), or in formats that no plain number is read from.
    """
    _check(module)
    weights = {item.dtype for item in module.parameters() if item.is_floating_point()}
    narrow = {item.dtype for item in module.buffers() if item.dtype in (torch.float16, torch.bfloat16)}
    if weights == {torch.float64} or (weights <= {torch.float32} and not narrow):
        return []
    rounded = _rebuilt_buffers(module)
    seen: set[int] = set()
    with torch.no_grad():
        for part in module.modules():
            for parameter in part._parameters.values():
                if parameter is None or id(parameter) in seen or not parameter.is_floating_point():
                    continue
                seen.add(id(parameter))
                if parameter.dtype != torch.float32:
                    parameter.data = parameter.data.float()
                    parameter.grad = None
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.is_floating_point() and buffer.dtype != torch.float32:
                    part._buffers[name] = rounded.get((id(part), name), buffer.float())
    for config in _configs(module):
        if getattr(config, "dtype", None) is not None:
            config.dtype = torch.float32
    words = " and ".join(sorted(str(kind).partition(".")[2] for kind in weights | narrow))
    return [
        f"the live model's numbers were {words}: they are float32 now, as a model loaded by name has them"
    ]


def tie(outer: Any) -> list[str]:
    """Hold a live model to what its configuration says of its output layer; returns notes.

    Equal copies are made one tensor. Where they differ the model is untied on purpose: its configuration then says so,
    or the exported folder would open with other logits.
    """
    config = outer.config
    output = getattr(getattr(outer, "get_output_embeddings", lambda: None)(), "weight", None)
    if output is None or not getattr(config, "tie_word_embeddings", False):
        return []  # not every model has an embedding that could be asked for
    embedding = getattr(outer.get_input_embeddings(), "weight", None)
    if embedding is None or embedding is output:
        return []
    if embedding.shape == output.shape and torch.equal(embedding, output):
        outer.tie_weights()
        return ["the live model's output layer is tied to its embeddings again, as its configuration says"]
    config.tie_word_embeddings = False
    return [
        "the live model's output layer differs from its embeddings: its configuration now says that it is not tied"
    ]


def _check(module: nn.Module) -> None:
    for name, item in module.named_parameters():
        if item.device.type == "meta":
            raise ModelError(
                f"the live model's {name} is on the meta device: it has no values; load it without device_map"
            )
        plain = item.dtype in (*_PLAIN, torch.float64)
        if not plain and (item.requires_grad or item.is_floating_point()):
            raise ModelError(
                f"the live model's {name} is {item.dtype}: expected float32, float64, bfloat16 or float16; a quantised "
                "model trains through a PEFT adapter only"
            )


def _configs(module: nn.Module) -> list[Any]:
    found = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    return list(found.values())


def _rebuilt_buffers(module: nn.Module) -> dict[tuple[int, str], Tensor]:
    """Buffers that are computed from the configuration (rotary frequencies), unrounded: (module, name) -> fp32.

    `model.half()` rounds them, and no checkpoint holds them.
    """
    found: dict[tuple[int, str], Tensor] = {}
    for part in module.modules():
        names = [
            name
            for name in part._non_persistent_buffers_set
            if (buffer := part._buffers.get(name)) is not None
            and buffer.dtype in (torch.float16, torch.bfloat16)
        ]
        if not names or list(part.parameters()) or not hasattr(part, "config"):
            continue
        try:
            kind: Any = type(part)
            fresh = kind(part.config)
        except Exception:  # of the model's own making: then its rounded values are what there is
            continue
        for name in names:
            value, old = fresh._buffers.get(name), part._buffers[name]
            if value is not None and old is not None and value.shape == old.shape:
                found[id(part), name] = value.float().to(old.device)
    return found

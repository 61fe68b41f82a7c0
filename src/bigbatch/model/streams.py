"""safetensors files written a tensor at a time: eight bytes of length, a JSON header, the raw tensors.

The library's own writer builds the whole file in memory first, twice a model's size at the moment when memory
is scarcest. Tests read these files back with the library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigbatch.written import open_new, replace_text

CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
FILE_BYTES = 5 * 10**9
"""Most bytes of tensors in one file of a model folder."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors that are somewhere else, such as in a checkpoint, and are read one at a time."""

    like: Mapping[str, Tensor]
    """Shape and type by name, on the meta device."""
    read: Callable[[str], Tensor]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Further names of tied tensors -> the name in `like`."""


def header_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Length and JSON header of a file that holds these tensors in this order, padded to eight bytes.

    Args:
        tensors: of any device, the meta device too: only shapes and types count.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        place = {"shape": list(tensor.shape), "data_offsets": [begin, end]}
        header[name] = {"dtype": CODES[tensor.dtype], **place}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def aligned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the order of a file: widest type first, so that each tensor stays aligned."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    return {name: tensors[name] for name in order}


def raw_bytes(tensor: Tensor) -> memoryview:
    """The raw little-endian bytes; no copy for a contiguous tensor in main memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def split_shards(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names dealt in order into files of at most `shard_bytes`; a larger tensor is alone in its file."""
    shards: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not shards or tensor.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= tensor.nbytes
    return shards


def write_weights(
    folder: Path, weights: Weights, names: Mapping[str, str], file_bytes: int = FILE_BYTES
) -> None:
    """Write `model.safetensors`, or several files with `model.safetensors.index.json`, as transformers reads them.

    One tensor is in memory at a time.

    Args:
        folder: exists.
        weights: what to write.
        names: name in the file -> name in `weights`.
        file_bytes: most bytes of tensors in one file.
    """
    like = {name: weights.like[source] for name, source in names.items()}
    shards = split_shards(like, file_bytes)
    weight_map: dict[str, str] = {}
    for number, held in enumerate(shards, start=1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        ordered = aligned({name: like[name] for name in held})
        with open_new(folder / file) as handle:
            handle.write(header_bytes(ordered))
            handle.writelines(_contents(ordered, names, weights))
        weight_map.update(dict.fromkeys(held, file))
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in like.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        replace_text(
            folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n", durable=False
        )


def _contents(
    ordered: Mapping[str, Tensor], names: Mapping[str, str], weights: Weights
) -> Iterator[memoryview]:
    for name, like in ordered.items():
        yield _raw(weights, names[name], like)  # nothing here keeps it while the next one is read


def _raw(weights: Weights, name: str, like: Tensor) -> memoryview:
    tensor = weights.read(name)
    assert (tensor.shape, tensor.dtype) == (like.shape, like.dtype), name
    return raw_bytes(tensor)

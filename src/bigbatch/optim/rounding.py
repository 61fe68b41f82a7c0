"""Stochastic rounding to bf16: up or down by chance, so that the mean of many roundings is the number itself.

A number between two neighbours a < x < b becomes b with probability (x - a) / (b - a). An update too small for
the format is then not lost: it moves the weight once in a while, by a whole step.
"""

from __future__ import annotations

import hashlib
import struct

import torch
from torch import Tensor

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

"""Dropout masks are a function of (seed, update, micro-batch, stage), never of what ran before.

So checkpoints hold no generator state, a resumed run draws the same masks, and recomputation repeats them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def mask_seed(seed: int, update: int, micro_batch: int, stage: int = 0) -> int:
    """63-bit seed of one micro-batch's masks, equal on every machine.

    Args:
        seed: `seed.dropout` of the recipe.
        update: 1-based update number.
        micro_batch: index within the update, over all ranks.
        stage: pipeline stage or pass over the same micro-batch.
    """
    digest = hashlib.blake2b(struct.pack("<4q", seed, update, micro_batch, stage), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed the generator that this device's dropout draws from, and no other.

    `torch.manual_seed` would take 0.5 ms a micro-batch and reseed the caller's other devices.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def private_generator(device: torch.device) -> Iterator[None]:
    """Let the code inside seed torch's generators without disturbing the caller's."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield

"""A global batch in random parts of equal size: what the gradient noise scale is measured on.

Micro-batches that are cut by length are no random samples of the batch: gradients of long and of short samples differ,
and the differences would count as noise. So on measured updates samples go to parts at random; inside a part they are
cut by length as always, and nothing is padded that would not be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bigbatch.data.deal import dealt
from bigbatch.data.order import mixed, splitmix64
from bigbatch.data.packs import micro_batches
from bigbatch.data.shares import chosen_of
from bigbatch.places import ALL, Part
from bigbatch.samples import GlobalBatch, MicroBatch, Packing

STRIDE = 2**20
"""Micro-batches of part i are numbered from i * STRIDE, so that each has dropout masks of its own."""
_PURPOSE = 0x6E6F697365
"""Keeps this order apart from that of the epochs."""


def random_parts(sizes: list[int], seed: int, update: int) -> list[np.ndarray]:
    """Places in a batch of each part's samples, ascending: a function of the numbers given, whoever computes it.

    Args:
        sizes: samples of each part (`rules.noise_scale.part_sizes`).
        seed: `seed.data`.
        update: 1-based number.
    """
    order = np.argsort(splitmix64(mixed(seed, _PURPOSE, update), count=sum(sizes)), kind="stable")
    return [np.sort(part).astype(np.int64) for part in np.split(order, np.cumsum(sizes)[:-1])]


def part_micro_batches(
    batch: GlobalBatch,
    sizes: list[int],
    seed: int,
    *,
    micro_tokens: int,
    packing: Packing,
    part: Part = ALL,
    shared: bool = False,
) -> Iterator[MicroBatch]:
    """The micro-batches of the random parts, one part behind the other; one rank's of them.

    Args:
        batch: all samples of the update.
        sizes: samples of each random part.
        seed: `seed.data`.
        micro_tokens: upper bound of computed tokens.
        packing: `packed` or `padded`.
        part: which rank's. Whole random parts are dealt to ranks, by their tokens.
        shared: all ranks compute each random part together instead: their gradients are summed in every pass.
    """
    places = random_parts(sizes, seed, batch.update)
    tokens = np.array([batch.lengths_B[chosen].sum() for chosen in places], np.int64)
    mine = range(len(places)) if shared else dealt(tokens, replace(part, even=False))
    for number in mine:
        share = chosen_of(batch, places[number])
        own = part if shared else ALL
        for piece in micro_batches(share, micro_tokens=micro_tokens, packing=packing, part=own):
            # None is the last: gradients are read behind each part, before they may travel.
            yield replace(piece, index=number * STRIDE + piece.index, last=False)


def random_part_of(micro_batch: MicroBatch) -> int:
    """Which of the parts it belongs to."""
    return micro_batch.index // STRIDE

"""FlexAttention's mask from sample starts: the dense one's blocks, for any number of tokens."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch.model import block_mask as room
from bigbatch.model.block_mask import block_mask, blocks, runs
from bigbatch.model.layout import Attention, build_layout, with_last_block
from tests.models import tiny_batch

CPU = torch.device("cpu")
PACKS = {
    "uneven": (300, 5, 129, 77, 1, 260, 128, 4),
    "one": (700,),
    "aligned": (128, 256, 128),
    "short": (3, 2, 9),
    "many": (7,) * 60,
}
PARTS = ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks")
NUMBERS = ("kv_indices", "full_kv_indices", "q_indices", "full_q_indices")


def layout_of(lengths: tuple[int, ...], applications: int = 0) -> Any:
    batch = tiny_batch(lengths)
    layout = build_layout(batch, CPU, inputs={})
    return with_last_block(layout, batch, applications) if applications else layout


@pytest.mark.parametrize("window", [None, 1, 4, 200])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("reads_only", [False, True])
@pytest.mark.parametrize("pack", PACKS)
def test_it_is_the_dense_mask(pack: str, reads_only: bool, causal: bool, window: int | None) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    layout = layout_of(PACKS[pack], applications=int(reads_only))
    found = block_mask(Attention(layout=layout, reads_only=reads_only, window=window, causal=causal), CPU)
    queries, tokens = found.seq_lengths
    assert tokens == sum(PACKS[pack])
    assert queries == (len(PACKS[pack]) if reads_only and layout.last is not None else tokens)
    expected = create_block_mask(found.mask_mod, None, None, queries, tokens, device="cpu")
    for name in PARTS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name, count in zip(NUMBERS, PARTS, strict=True):
        kept = torch.arange(getattr(found, name).shape[-1]) < getattr(found, count)[..., None]
        assert torch.equal(getattr(found, name)[kept], getattr(expected, name)[kept]), name


def test_a_long_pack_takes_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """131,072 tokens: 17 billion pairs."""
    cumulative = np.arange(0, 131_073, 512)
    started = time.perf_counter()
    some, full = blocks(*runs(cumulative, np.arange(131_072), None, causal=True), 131_072)
    assert time.perf_counter() - started < 2
    assert some.sum() == 1024, "the diagonal"
    assert full.sum() == 256 * (1 + 2 + 3)


def test_it_is_made_once_a_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = room._made
    monkeypatch.setattr(room, "_made", lambda *given: made.append(1) or real(*given))
    layout = layout_of(PACKS["uneven"])
    everything, near = (Attention(layout=layout, causal=True, window=window) for window in (None, 8))
    first = block_mask(everything, CPU)
    assert block_mask(everything, CPU) is first
    assert block_mask(near, CPU) is not first and len(made) == 2

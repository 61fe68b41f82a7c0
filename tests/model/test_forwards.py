"""Packed equals padded, bit for bit where samples must not touch, and planted faults show."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bigbatch.model import attention, forwards, layout
from bigbatch.model.anatomy import anatomy
from bigbatch.model.forwards import PackedForward, PaddedForward, can_pack
from bigbatch.records import MicroBatch
from tests.models import LAST_TOKEN, PACKABLE, tiny, tiny_batch

LENGTHS = (12, 12, 5, 9, 3, 9, 7, 20, 1, 6)


def _batch(model: nn.Module, lengths: Any = LENGTHS, seed: int = 0) -> MicroBatch:
    parts = anatomy(model)
    return tiny_batch(lengths, pools=parts.pools, segments=parts.uses_segments, seed=seed)


def _plain(model: Any, batch: MicroBatch, sample: int) -> Tensor:
    """Logits of one sample alone, by transformers only."""
    start = int(batch.lengths_B[:sample].sum())
    cut = slice(start, start + int(batch.lengths_B[sample]))
    inputs = {"input_ids": torch.as_tensor(batch.ids_T[cut])[None]}
    if batch.segments_T is not None:
        inputs["token_type_ids"] = torch.as_tensor(batch.segments_T[cut])[None]
    return model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits[0]


def _gradients(model: nn.Module, logits: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    model.zero_grad()
    (logits * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def _packed_error(model: nn.Module, batch: MicroBatch) -> float:
    """Largest deviation of packed logits from the samples run one by one."""
    packed = PackedForward(model, anatomy(model))
    with torch.no_grad():
        found = packed(batch)
    packed.close()
    with torch.no_grad():
        expected = torch.stack([_plain(model, batch, index) for index in range(len(batch.lengths_B))])
    return _relative(found, expected)


@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_packed_and_padded_equal_samples_one_by_one(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model = tiny(family).to(dtype)
    batch = _batch(model)
    expected = torch.stack([_plain(model, batch, index) for index in range(len(LENGTHS))])
    gradient = _gradients(model, expected)
    packed = PackedForward(model, anatomy(model))
    for forward in (packed, PaddedForward(model, model.config.pad_token_id)):
        found = forward(batch)
        assert _relative(found, expected) <= tolerance
        assert _relative(_gradients(model, found), gradient) <= tolerance


@pytest.mark.parametrize("family", PACKABLE)
def test_another_sample_never_leaks(family: str) -> None:
    model = tiny(family)
    forward = PackedForward(model, anatomy(model))
    batch = _batch(model)
    ids_T = batch.ids_T.copy()
    ids_T[12:24] = 99 - ids_T[12:24]  # the second sample
    changed = MicroBatch(**{**vars(batch), "ids_T": ids_T})
    with torch.no_grad():
        before, after = forward(batch), forward(changed)
    others = np.arange(len(LENGTHS)) != 1
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("lengths", [(7,), (6, 6, 6), (1, 1), (1, 40), tuple(range(1, 30))])
def test_any_lengths(lengths: tuple[int, ...]) -> None:
    model = tiny("bert").double()
    assert _packed_error(model, _batch(model, lengths)) <= 1e-10


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert", "mistral"])
class TestPlantedFaults:
    """Each fault must move the logits far beyond the tolerance."""

    def test_positions_not_reset(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            forwards, "positions_in_sample", lambda ends, offset=0: np.arange(ends[-1]) % 60 + offset
        )
        model = tiny(family).double()
        batch = _batch(model)
        if family in ("modernbert", "mistral"):  # rotary positions are relative: only a break inside a sample shows
            monkeypatch.setattr(
                forwards, "positions_in_sample", lambda ends, offset=0: np.arange(ends[-1]) % 8 + offset
            )
        assert _packed_error(model, batch) > 1e-3

    def test_cumulative_lengths_off_by_one(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        right = layout.cumulative_lengths

        def wrong(lengths_B: np.ndarray) -> np.ndarray:
            ends = right(lengths_B)
            ends[1:-1] += 1
            return ends

        monkeypatch.setattr(layout, "cumulative_lengths", wrong)
        monkeypatch.setattr(
            layout, "group_samples", lambda lengths: [(index, index + 1) for index in range(len(lengths))]
        )
        model = tiny(family).double()
        assert _packed_error(model, _batch(model)) > 1e-3

    def test_attention_across_samples(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def one_sample(cumulative: Any, first: int, end: int, device: Any) -> layout.Group:
            tokens = int(cumulative[-1])
            return layout.Group(tokens=tokens, samples=1, longest=tokens, slots_T=None, real_BK=None)

        monkeypatch.setattr(layout, "_group", one_sample)
        monkeypatch.setattr(layout, "group_samples", lambda lengths: [(0, len(lengths))])
        model = tiny(family).double()
        assert _packed_error(model, _batch(model)) > 1e-3

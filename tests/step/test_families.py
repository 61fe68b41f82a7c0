"""The promise, family by family: packed micro-batches against the whole padded batch, and no leakage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigbatch.data.packs import micro_batches
from bigbatch.model import products
from bigbatch.model.packing import can_pack
from bigbatch.model.products import has_onednn
from tests.models import FAMILIES, LAST_TOKEN, PACKABLE, tiny
from tests.split import CLIP, Rows, Trajectory, assert_equal, parts_of, rows_of, train_reference, train_split

UPDATES = 4
MICRO_TOKENS = 96
"""About a third of a batch, and less than four of the longest samples."""
PADDED_BECAUSE = {
    "deberta-v3": "its attention does not use transformers' attention interface",
    "mpnet": "its attention does not use transformers' attention interface",
}
KEYS = {"batch": 16, "updates": 50}


def job(family: str, dtype: torch.dtype):
    """A model of the family and rows of 2 to 40 tokens."""
    # fp64 takes weights that make attention sharp; in fp32 they would make the oracle's own rounding of the
    # (exactly zero) key-bias gradients larger than the contract's bound.
    module = tiny(family, initializer_range=0.2 if dtype == torch.float64 else 0.05).to(dtype)
    return module, rows_of("single", 48, longest=40)


def trained(
    family: str, dtype: torch.dtype, packing: str, updates: int, **how: str
) -> tuple[Trajectory, Trajectory]:
    """What bigbatch did in small micro-batches, and the oracle with whole padded batches."""
    module, rows = job(family, dtype)
    assert can_pack(module)[0] == (packing == "packed")
    parts = parts_of(module, rows, "single", micro_tokens=MICRO_TOKENS, packing=packing, **how, **KEYS)
    expected = train_reference(
        module, parts, rows, "single", updates, pools="last" if family in LAST_TOKEN else "first"
    )
    assert min(expected.norms) > CLIP
    assert parts.module.training is False
    found = train_split(parts, updates)
    assert parts.module.training is True
    assert min(found.micro_batches) > 2
    return found, expected


def test_every_family_is_either_packed_or_padded_for_a_reason():
    assert sorted([*PACKABLE, *PADDED_BECAUSE]) == sorted(FAMILIES)


@pytest.mark.parametrize("family", PACKABLE)
def test_packed_updates_equal_the_whole_padded_batch_in_fp64(family):
    assert_equal(*trained(family, torch.float64, "packed", UPDATES), torch.float64)


@pytest.mark.parametrize("family", PACKABLE)
def test_the_packed_gradient_equals_the_whole_padded_batch_in_fp32(family):
    assert_equal(*trained(family, torch.float32, "packed", 1), torch.float32)


@pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_so_does_the_gradient_of_products_by_onednn(family, monkeypatch):
    calls, right = [], products._product
    monkeypatch.setattr(products, "_product", lambda *given: calls.append(given) or right(*given))
    assert_equal(*trained(family, torch.float32, "packed", 1, products="onednn"), torch.float32)
    assert len(calls) > 20


@pytest.mark.parametrize("family", sorted(PADDED_BECAUSE))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_the_others_are_sorted_and_padded_and_say_why(family, dtype):
    module, _ = job(family, dtype)
    assert can_pack(module) == (False, PADDED_BECAUSE[family])
    updates = UPDATES if dtype == torch.float64 else 1
    assert_equal(*trained(family, dtype, "padded", updates), dtype)


def changed(rows: Rows, victim: int) -> Rows:
    """The same rows, with other tokens (none the same) in one of them."""
    ids = [3 + (token - 3 + 17) % 90 for token in rows[victim]["input_ids"]]
    return [{**row, "input_ids": ids} if number == victim else row for number, row in enumerate(rows)]


def logits_of(module: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """The engine's training forward of one global batch: (rows, classes), in the order of the rows."""
    parts = parts_of(module, rows, "single", micro_tokens=MICRO_TOKENS, packing="packed", **KEYS)
    parts.module.train()
    batch = parts.batches.at(0, 1)
    logits = torch.full((len(rows), 3), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        for piece in micro_batches(batch, micro_tokens=MICRO_TOKENS, packing="packed"):
            logits[torch.from_numpy(piece.sample_ids_B)] = parts.forward(piece).double()
    return logits


@pytest.mark.parametrize("family", PACKABLE)
def test_a_changed_sample_leaves_every_bit_of_its_neighbours(family):
    module, rows = job(family, torch.float64)
    before = logits_of(module, rows)
    seen = np.flatnonzero(before.isfinite().all(1))
    assert len(seen) == KEYS["batch"]
    for victim in seen[[0, 7, 15]].tolist():
        after = logits_of(module, changed(rows, victim))
        others = [row for row in seen.tolist() if row != victim]
        assert torch.equal(after[others], before[others])
        assert (after[victim] - before[victim]).abs().max() > 1e-6

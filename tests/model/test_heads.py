"""Heads that read tokens: found by structure, and equal padded, packed and sample by sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigbatch.model.anatomy import anatomy
from bigbatch.model.packing import can_pack
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.samples import MicroBatch
from tests.models import FAMILIES, LAST_TOKEN, PACKABLE, tiny, tiny_batch, tiny_class

LENGTHS = (12, 12, 5, 9, 3, 9, 7, 20, 1, 6)
CASES = [
    (family, head)
    for family in FAMILIES
    for head in ("tokens", "masked", "causal")
    # Encoders are no causal models; transformers makes decoders of some on demand.
    if tiny_class(family, head) and (head != "causal" or family in LAST_TOKEN)
]


def _batch(model: nn.Module) -> MicroBatch:
    return tiny_batch(LENGTHS, pools="tokens", segments=anatomy(model).uses_segments)


def _one_by_one(model: Any, batch: MicroBatch) -> Tensor:
    """Logits of each unit, from its sample alone, by transformers only."""
    found, start = [], 0
    for sample, length in enumerate(batch.lengths_B.tolist()):
        inputs = {"input_ids": torch.as_tensor(batch.ids_T[start : start + length])[None]}
        if batch.segments_T is not None:
            inputs["token_type_ids"] = torch.as_tensor(batch.segments_T[start : start + length])[None]
        logits_LC = model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits[0]
        found += [logits_LC[read - start] for read in batch.reads_U[batch.unit_sample_U == sample]]
        start += length
    return torch.stack(found)


def _gradients(model: nn.Module, logits: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    model.zero_grad()
    (logits * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize(("family", "head"), CASES)
def test_parts_are_found(family: str, head: str) -> None:
    model = tiny(family, head=head)
    parts = anatomy(model)
    assert (parts.pools, parts.pools_one_token) == ("tokens", True)
    assert len(parts.blocks) == len(anatomy(tiny(family)).blocks)
    assert parts.output_layer is (None if head == "tokens" else model.get_output_embeddings())
    assert can_pack(model)[0] == (family in PACKABLE), can_pack(model)[1]
    owned = {id(item) for part in parts.head for item in part.parameters()}
    within = {id(item) for item in parts.base.parameters()}
    outside = {id(item) for item in model.parameters()} - within
    assert outside <= owned, "what lies outside the base runs after the blocks"


@pytest.mark.parametrize(("family", "head"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_packed_and_padded_equal_samples_one_by_one(
    family: str, head: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny(family, head=head).to(dtype)
    batch = _batch(model)
    assert len(batch.reads_U) == sum(min(length, 3) for length in LENGTHS)
    expected = _one_by_one(model, batch)
    gradient = _gradients(model, expected)
    forwards: list[Any] = [padded_runner(model, model.config.pad_token_id)]
    if family in PACKABLE:
        forwards.append(packed_runner(model, anatomy(model)))
    for forward in forwards:
        found = forward(batch)
        assert _relative(found, expected) <= tolerance
        assert _relative(_gradients(model, found), gradient) <= tolerance


def test_a_head_that_mixes_tokens_cannot_be_packed() -> None:
    model = tiny("bert", head="tokens")
    inner = model.classifier.forward
    model.classifier.forward = lambda hidden: inner(hidden + hidden.mean(1, keepdim=True))
    parts = anatomy(model)
    assert (parts.pools, parts.pools_one_token) == ("tokens", False)
    assert can_pack(model) == (False, "its head reads more than one token of a sample (mean pooling)")


@pytest.mark.parametrize("head", ["masked", "causal"])
def test_logits_are_computed_where_they_are_read_only(head: str) -> None:
    model = tiny("bert" if head == "masked" else "llama", head=head)
    batch, forward = _batch(model), packed_runner(model, anatomy(model))
    seen: list[tuple[int, ...]] = []
    model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    with torch.no_grad():
        forward(batch)
    assert seen == [(len(batch.reads_U), 1, 100)]

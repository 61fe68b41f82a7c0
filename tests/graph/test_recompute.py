"""Recomputing changes memory and time, and not a bit of the gradient; dropout masks are repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bigbatch.graph.dropout import quick_dropout
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.graph.recompute import candidates, recompute
from bigbatch.model.anatomy import anatomy
from bigbatch.model.runner import packed_runner, padded_runner
from tests.models import tiny, tiny_batch


def gradient(
    model: nn.Module, kind: Any, blocks: int, packed: bool = True, attention: str = "sdpa"
) -> torch.Tensor:
    parts = anatomy(model)
    forward = packed_runner(model, parts, attention=attention) if packed else padded_runner(model, 0)
    if packed:
        read_tokens_only(forward, parts)
    forward.when_closed(quick_dropout(model))
    forward.when_closed(recompute(parts, kind, blocks))
    model.train()
    model.zero_grad()
    torch.manual_seed(3)
    forward(tiny_batch(pools=parts.pools)).square().sum().backward()
    forward.close()
    return torch.cat([item.grad.flatten() for item in model.parameters() if item.grad is not None])


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama", "distilbert", "electra"])
@pytest.mark.parametrize("kind", ["blocks", "selective"])
@pytest.mark.parametrize("attention", ["sdpa", "chunked"])
def test_not_a_bit_changes(family: str, kind: str, attention: str) -> None:
    layers = "n_layers" if family == "distilbert" else "n_layer" if family == "gpt2" else "num_hidden_layers"
    model = tiny(family, dropout=0.3, **{layers: 4})
    expected = gradient(model, "none", 0, attention=attention)
    for blocks in (1, 3):
        assert torch.equal(gradient(model, kind, blocks, attention=attention), expected)


def test_padded_too() -> None:
    model = tiny("bert", dropout=0.3, num_hidden_layers=3)
    assert torch.equal(gradient(model, "blocks", 2, packed=False), gradient(model, "none", 0, packed=False))


def test_which_blocks_run_twice_and_which_never() -> None:
    model = tiny("bert", num_hidden_layers=5)
    parts = anatomy(model)
    blocks = [application.module for application in parts.blocks]
    assert candidates(parts) == blocks[:-1]
    undo = recompute(parts, "blocks", 2)
    assert [block.gradient_checkpointing for block in blocks] == [True, False, True, False, False]
    undo()
    assert not any(block.gradient_checkpointing for block in blocks)
    shared = anatomy(tiny("albert"))
    assert candidates(shared) == []  # its only block is the last one, too


def test_recomputing_keeps_less() -> None:
    model = tiny("bert", num_hidden_layers=6).train()
    parts, kept = anatomy(model), []
    for kind in ("none", "selective", "blocks"):
        undo = recompute(parts, kind, 5)  # type: ignore[arg-type]
        sizes: dict[int, int] = {}

        def count(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = padded_runner(model, 0)(tiny_batch((40,) * 8)).sum()
        kept.append(sum(sizes.values()))
        del loss
        undo()
    assert kept[2] < kept[0] / 2 and kept[1] < kept[0]

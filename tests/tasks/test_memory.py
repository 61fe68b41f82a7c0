"""`model.memory`: pieces with the tokens in front of them, against a loop over documents with keys and values cut off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bigbatch.errors import ModelError, RecipeError
from tests.language import documents
from tests.models import tiny
from tests.split import SMALL, Trajectory, parts_of, rows_of, train_split

PIECE, MEMORY = 12, 7
CONFIG = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 64}


def parts(module: nn.Module, micro_tokens: int, packing: str, memory: int = MEMORY) -> Any:
    keys: dict[str, Any] = {
        "model": {"name": None, "memory": memory},
        "task": {"name": "clm"},
        "data": {"train": [], "max_length": PIECE},
        "batch": 40,
    }
    return parts_of(module, documents(40), "language", micro_tokens=micro_tokens, packing=packing, **keys)


def by_hand(module: Any, cut: bool) -> torch.Tensor:
    """The gradient of the mean loss of all pieces: the tokens in front give keys and values, as a cache has them."""
    losses, count = [], 0
    for row in documents(40):
        ids = torch.tensor(row["input_ids"])
        for first in range(0, len(ids) - 1, PIECE - 1):
            piece, past = ids[first : first + PIECE], None
            before = ids[max(0, first - MEMORY) : first]
            if len(before):
                past = module(input_ids=before[None], use_cache=True).past_key_values
                for layer in past.layers if cut else ():
                    layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
            logits = module(input_ids=piece[None, :-1], past_key_values=past, use_cache=True).logits[0]
            losses.append(nn.functional.cross_entropy(logits, piece[1:], reduction="sum"))
            count += len(piece) - 1
    module.zero_grad()
    (torch.stack(losses).sum() / count).backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def test_the_cache_of_transformers_by_any_split() -> None:
    module = tiny("llama", head="causal", **CONFIG)
    for dtype, bound in ((torch.float64, 1e-6), (torch.float32, 1e-5)):  # Llama's norms compute in fp32
        model = module.to(dtype)
        expected, through = by_hand(model, cut=True), by_hand(model, cut=False)
        count = len(parts(model, 64, "packed").data.tables["train"])
        for micro_tokens, packing in ((64, "packed"), (400, "packed"), (200, "padded")):
            ready = parts(model, micro_tokens, packing)
            ready.batches.samples = count
            found = _gradient(train_split(ready, 1), model)
            assert float((found - expected).norm() / expected.norm()) < bound, (micro_tokens, packing)
        assert float((through - expected).norm() / expected.norm()) > 1e-3
        without = parts(model, 400, "packed", memory=0)
        without.batches.samples = count
        assert float((_gradient(train_split(without, 1), model) - expected).norm() / expected.norm()) > 1e-2


def _gradient(found: Trajectory, model: nn.Module) -> torch.Tensor:
    return torch.cat([found.gradients[0][name].flatten() for name, _ in model.named_parameters()])


def test_refusals() -> None:
    with pytest.raises(ModelError, match="rotary"):
        parts(tiny("gpt2", head="causal"), 64, "packed")
    with pytest.raises(ModelError, match="64 positions"):
        parts(tiny("llama", head="causal", **CONFIG), 64, "packed", memory=60)
    with pytest.raises(RecipeError, match="task clm"):
        parts_of(
            tiny(),
            rows_of("single", 120),
            "single",
            micro_tokens=9,
            packing="packed",
            model={"name": None, "memory": 3},
        )

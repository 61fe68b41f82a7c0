"""`model.memory`: pieces with the tokens in front of them, against a loop over documents with keys and values cut off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bigbatch.errors import DataError, ModelError, RecipeError
from bigbatch.model.patterns import Pattern
from tests.language import documents
from tests.model.test_sparse import mask_of
from tests.models import tiny
from tests.split import SMALL, Trajectory, parts_of, rows_of, train_split

PIECE, MEMORY = 12, 7
CONFIG = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 64}


def parts(
    module: nn.Module,
    micro_tokens: int,
    packing: str,
    memory: int = MEMORY,
    rows: Any = None,
    attention: dict[str, Any] | None = None,
) -> Any:
    keys: dict[str, Any] = {
        "model": {"name": None, "memory": memory, **({"attention": attention} if attention else {})},
        "task": {"name": "clm"},
        "data": {"train": [], "max_length": PIECE},
        "batch": 1,
    }
    rows = documents(40) if rows is None else rows
    return parts_of(module, rows, "language", micro_tokens=micro_tokens, packing=packing, **keys)


def by_hand(module: Any, cut: bool, rows: Any = None, pattern: Pattern | None = None) -> torch.Tensor:
    """The gradient of the mean loss of all pieces: the tokens in front give keys and values, as a cache has them.
    A pattern is a mask that is written pair by pair; places count from the first token that is read.
    """
    losses, count = [], 0
    for row in documents(40) if rows is None else rows:
        ids = torch.tensor(row["input_ids"])
        for first in range(0, len(ids) - 1, PIECE - 1):
            piece, past = ids[first : first + PIECE], None
            before = ids[max(0, first - MEMORY) : first]
            read = len(before) + len(piece) - 1
            mask = None if pattern is None else mask_of(pattern, read, True)[None, None]
            masks = (
                [None, None]
                if mask is None
                else [mask[..., : len(before), : len(before)], mask[..., len(before) :, :]]
            )
            if len(before):
                past = module(input_ids=before[None], attention_mask=masks[0], use_cache=True).past_key_values
                for layer in past.layers if cut else ():
                    layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
            given = {"past_key_values": past, "attention_mask": masks[1]}
            logits = module(input_ids=piece[None, :-1], use_cache=True, **given).logits[0]
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


PATTERNS: dict[str, tuple[dict[str, Any], Pattern]] = {
    "local": ({"pattern": "local", "window": 4}, Pattern(window=4)),
    "global": ({"pattern": "global", "window": 3, "global": 2}, Pattern(window=3, first=2)),
    "strided": ({"pattern": "strided", "window": 2, "stride": 5}, Pattern(window=2, stride=5)),
    "fixed": ({"pattern": "fixed", "block": 5, "summary": 1}, Pattern(block=5, summary=1)),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_counts_places_from_the_first_remembered_token(name: str) -> None:
    asked, pattern = PATTERNS[name]
    model, rows = tiny("llama", head="causal", **CONFIG).double(), documents(12)
    expected = by_hand(model, True, rows, pattern)
    for packing in ("packed", "padded"):
        ready = parts(model, 200, packing, rows=rows, attention=asked)
        ready.batches.samples = len(ready.data.tables["train"])
        found = _gradient(train_split(ready, 1), model)
        assert float((found - expected).norm() / expected.norm()) < 1e-6, packing
    assert float((by_hand(model, True, rows) - expected).norm() / expected.norm()) > 1e-3


@pytest.mark.parametrize("lengths", [(2,), (3, 2, 1), (40,), (1, 30, 0, 12, 5)])
def test_documents_of_any_length(lengths: tuple[int, ...]) -> None:
    """Shorter than a piece, one alone, some without a token to predict: as if those were not there."""
    random = np.random.default_rng(1)
    rows = [{"input_ids": random.integers(5, 90, length).tolist()} for length in lengths]
    model = tiny("llama", head="causal", **CONFIG).double()
    ready = parts(model, 200, "packed", rows=[row for row in rows if row["input_ids"]])
    ready.batches.samples = len(ready.data.tables["train"])
    expected = by_hand(model, True, rows)
    found = _gradient(train_split(ready, 1), model)
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_documents_without_a_token_to_predict() -> None:
    with pytest.raises(DataError, match="predict"):
        parts(tiny("llama", head="causal", **CONFIG), 64, "packed", rows=[{"input_ids": [7]}])


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

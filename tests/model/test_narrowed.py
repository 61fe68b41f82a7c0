"""A model that is given a pattern gives what transformers' own attention gives under a mask written pair by pair."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bigbatch.errors import ModelError
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.model.anatomy import anatomy
from bigbatch.model.export import save_model
from bigbatch.model.load import load_model
from bigbatch.model.narrowed import narrow
from bigbatch.model.packing import can_pack
from bigbatch.model.patterns import Pattern, pattern_of
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.recipe.attention import AttentionSpec
from bigbatch.recipe.learning import ModelSpec
from bigbatch.samples import MicroBatch
from tests.model.test_sparse import mask_of
from tests.models import micro_batch_of, tiny, tiny_pair

SPECS: dict[str, dict[str, Any]] = {
    "local": {"window": 3},
    "global": {"window": 2, "global": 2},
    "strided": {"window": 2, "stride": 3},
    "fixed": {"block": 4, "summary": 1, "global": 1},
}
LENGTHS = (20, 5, 19, 1, 33, 7)


def spec_of(name: str) -> AttentionSpec:
    return AttentionSpec.model_validate({"pattern": name, **SPECS[name]})


def batch_of_tokens() -> MicroBatch:
    """Every second token of every sample is read."""
    random, lengths = np.random.default_rng(0), np.array(LENGTHS)
    starts = lengths.cumsum() - lengths
    reads = [start + at for start, length in zip(starts, lengths, strict=True) for at in range(0, length, 2)]
    sample_U = np.searchsorted(lengths.cumsum(), reads, side="right")
    return micro_batch_of(
        ids_T=random.integers(3, 100, lengths.sum()),
        lengths_B=lengths,
        reads_U=np.array(reads),
        unit_sample_U=sample_U,
        values=np.zeros(len(reads), np.int64),
        capacity_tokens=1000,
    )


def outputs_and_gradient(module: Any, run: Any, *given: Any, **how: bool) -> tuple[Tensor, Tensor]:
    module.zero_grad()
    outputs = run(*given, **how)
    weights = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(1))
    (outputs * weights).sum().backward()
    return outputs.detach(), torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def by_hand(
    module: Any, batch: MicroBatch, pattern: Pattern, causal: bool, *, joined: bool = False
) -> Tensor:
    """Each sample alone with a mask of four dimensions; joined: as one, which lets samples see each other."""
    ids = torch.from_numpy(batch.ids_T.astype(np.int64)).split(list(LENGTHS))
    if joined:
        positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
        mask = mask_of(pattern, sum(LENGTHS), causal)[None, None]
        logits = module(torch.cat(ids)[None], attention_mask=mask, position_ids=positions).logits[0]
    else:
        masks = [mask_of(pattern, n, causal)[None, None] for n in LENGTHS]
        found = [module(one[None], attention_mask=m).logits[0] for one, m in zip(ids, masks, strict=True)]
        logits = torch.cat(found)
    return logits[torch.from_numpy(batch.reads_U)]


EACH = [
    pytest.param(family, name, marks=[pytest.mark.stress] if family == "gpt2" and name != "fixed" else [])
    for family, name in product(("bert", "gpt2", "llama"), SPECS)
]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("family", "name"), EACH)
def test_packed_and_padded_are_the_masked_model(family: str, name: str) -> None:
    head, causal = ("tokens", False) if family == "bert" else ("causal", True)
    batch, spec = batch_of_tokens(), spec_of(name)
    pattern = Pattern.of(spec)
    assert pattern is not None
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        module = tiny(family, head=head).to(dtype)
        expected = outputs_and_gradient(module, by_hand, module, batch, pattern, causal)
        naive = outputs_and_gradient(module, by_hand, module, batch, pattern, causal, joined=True)
        narrow(module, spec, family)
        parts = anatomy(module)
        found = {"padded": outputs_and_gradient(module, padded_runner(module, 0), batch)}
        assert can_pack(module, parts)[0]
        for kernel in ("sdpa", "chunked"):
            for lazy in (False, True):
                runner = packed_runner(module, parts, attention=kernel)
                if lazy:
                    read_tokens_only(runner, parts)
                found[f"{kernel}, {lazy}"] = outputs_and_gradient(module, runner, batch)
                runner.close()
        runner = packed_runner(module, parts, attention="flex")
        with torch.no_grad():
            flexed = runner(batch)
        runner.close()
        for way, both in {**found, "flex": (flexed, expected[1])}.items():
            for a, b in zip(both, expected, strict=True):
                # Llama's norms compute in fp32 whatever the model is in.
                bound = max(tolerance, 1e-6) if family == "llama" else tolerance
                assert float((a - b).norm() / b.norm()) < bound, (way, dtype)
        assert all(float((a - b).norm() / b.norm()) > 0.05 for a, b in zip(naive, expected, strict=True))


def test_the_folder_says_it(tmp_path: Path) -> None:
    module = tiny("bert")
    narrow(module, spec_of("strided"), "bert")
    save_model(module, None, tmp_path / "m", "")

    def opened(attention: Any) -> tuple[Any, tuple[str, ...]]:
        spec = ModelSpec.model_validate({"name": str(tmp_path / "m"), "attention": attention})
        loaded = load_model(spec, outputs=3, seed=0, dropout=None)
        return loaded.module, loaded.notes

    again, notes = opened(None)
    assert pattern_of(again) == Pattern(window=2, stride=3) and "as its folder says" in " ".join(notes)
    other, notes = opened("local")
    assert pattern_of(other) == Pattern(window=256) and "before, local" in " ".join(notes)
    full, notes = opened("full")
    assert pattern_of(full) is None and "full attention now" in " ".join(notes)
    assert not hasattr(full.config, "bigbatch_attention")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"strided"', '"striped"'))
    with pytest.raises(ModelError, match="bigbatch_attention.pattern: .*'strided'"):
        opened(None)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("deberta-v3", "by itself"),
        ("modernbert", "see a window already"),
        ("mistral", "see a window already"),
        ("t5", "one stack"),
    ],
)
def test_what_cannot_have_a_pattern(family: str, why: str) -> None:
    module = tiny_pair(family) if family == "t5" else tiny(family)
    with pytest.raises(ModelError, match=why):
        narrow(module, spec_of("local"), family)


def test_attention_that_ignores_what_it_is_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny("bert")
    layer = module.bert.encoder.layer[1].attention.self
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a, **k: forward(*a, **{**k, "attention_pattern": None}))
    with pytest.raises(ModelError, match="hand"):
        narrow(module, spec_of("local"), "it")
    assert pattern_of(module) is None and module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "asked",
    [
        {"pattern": "local", "window": 33},
        {"pattern": "local", "window": 4000},
        {"pattern": "fixed", "block": 64, "summary": 1},
        {"pattern": "strided", "window": 1, "stride": 1},
    ],
)
def test_a_pattern_that_reaches_over_the_longest_sample_is_full_attention(asked: dict[str, Any]) -> None:
    batch, found = batch_of_tokens(), []
    for options in ({"pattern": "full"}, asked):
        module = tiny("llama", head="causal")
        narrow(module, AttentionSpec.model_validate(options), "llama")
        runner = packed_runner(module, anatomy(module))
        found.append(outputs_and_gradient(module, runner, batch))
        runner.close()
    for ours, full in zip(found[1], found[0], strict=True):
        assert float((ours - full).norm() / full.norm()) < 1e-6

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bigbatch.model import feeds
from bigbatch.model.anatomy import anatomy
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.probe.exactness import probe_packing
from bigbatch.samples import MicroBatch
from tests.models import PACKABLE, tiny, tiny_batch


def _batches(model: nn.Module) -> list[MicroBatch]:
    pools = anatomy(model).pools
    return [tiny_batch((5, 9, 3, 9), pools=pools, seed=1), tiny_batch((20, 4), pools=pools, seed=2)]


@pytest.mark.parametrize("family", PACKABLE)
def test_packing_passes(family: str) -> None:
    model = tiny(family)
    facts = probe_packing(packed_runner(model, anatomy(model)), padded_runner(model, 0), _batches(model))
    assert facts.packed_ok, facts.reason
    assert facts.samples == 6
    assert facts.error is not None
    assert facts.error <= 1e-5
    assert facts.reason.startswith("packed: ")
    assert facts.reason.endswith("of padded on 6 real samples")


def test_nothing_is_left_behind() -> None:
    model = tiny("bert", dropout=0.1).train()
    model.bert.pooler.eval()
    model.classifier.bias.grad = torch.ones(3)
    modes = [part.training for part in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    facts = probe_packing(packed_runner(model, anatomy(model)), padded_runner(model, 0), _batches(model))
    assert facts.packed_ok
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert [name for name, item in model.named_parameters() if item.grad is not None] == ["classifier.bias"]
    assert model.classifier.bias.grad.tolist() == [1.0, 1.0, 1.0]


def test_a_wrong_path_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "positions_in_sample", lambda ends, offset=0: np.arange(ends[-1]) + offset)
    model = tiny("bert")
    facts = probe_packing(packed_runner(model, anatomy(model)), padded_runner(model, 0), _batches(model))
    assert not facts.packed_ok
    assert facts.reason.startswith("padded: packed ")
    assert "allowed is 1e-05" in facts.reason


def test_a_wrong_gradient_alone_is_found() -> None:
    model = tiny("bert")
    padded = padded_runner(model, 0)

    def doubled(batch: MicroBatch) -> torch.Tensor:
        logits = padded(batch)
        return 2 * logits - logits.detach()

    facts = probe_packing(doubled, padded, _batches(model))
    assert not facts.packed_ok
    assert facts.error == 0.0
    assert facts.reason.startswith("padded: packed gradient off by 1.0e+00")


def test_a_path_that_fails_is_not_used() -> None:
    model = tiny("bert")

    def broken(_batch: MicroBatch) -> torch.Tensor:
        raise RuntimeError("shape mismatch\nlong trace")

    facts = probe_packing(broken, padded_runner(model, 0), _batches(model))
    assert not facts.packed_ok
    assert facts.reason == "padded: packing failed: RuntimeError: shape mismatch"
    assert facts.error is None


def test_numbers_that_are_not_finite_are_not_called_equal() -> None:
    model = tiny("bert")
    nn.init.constant_(model.classifier.bias, float("nan"))
    facts = probe_packing(packed_runner(model, anatomy(model)), padded_runner(model, 0), _batches(model))
    assert not facts.packed_ok
    assert "not finite" in facts.reason


def test_a_head_of_zeros_and_a_frozen_model() -> None:
    model: Any = tiny("llama")
    nn.init.zeros_(model.score.weight)
    facts = probe_packing(packed_runner(model, anatomy(model)), padded_runner(model, 0), _batches(model))
    assert facts.packed_ok
    model.requires_grad_(False)
    assert probe_packing(
        packed_runner(model, anatomy(model)), padded_runner(model, 0), _batches(model)
    ).packed_ok


def test_rounding_is_told_from_a_fault_by_fp64() -> None:
    model = tiny("bert")
    padded = padded_runner(model, 0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}

    def rounded(batch: MicroBatch) -> torch.Tensor:
        logits = padded(batch)
        return logits * (1 + 3e-5) if logits.dtype == torch.float32 else logits

    facts = probe_packing(rounded, padded, _batches(model))
    assert facts.packed_ok
    assert facts.reason == "packed: 3e-05 of padded on 6 real samples (rounding: 0e+00 in fp64)"
    facts = probe_packing(lambda batch: padded(batch) * (1 + 3e-5), padded, _batches(model))
    assert not facts.packed_ok
    assert facts.reason.startswith("padded: packed ")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert model.dtype == torch.float32


def test_a_failing_padded_path_is_not_hidden() -> None:
    model = tiny("bert")
    packed = packed_runner(model, anatomy(model))
    with pytest.raises(RuntimeError):
        probe_packing(packed, padded_runner(model, 0), [tiny_batch((65,))])

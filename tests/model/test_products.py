"""Products by oneDNN: those of `functional.linear`, from a module that nobody finds changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from bigbatch.model.products import by_onednn, has_onednn, onednn_linear, plain_layers

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch):
    """Inputs of the products that oneDNN made."""
    found = []
    original = torch.ops.mkldnn._linear_pointwise

    def counting(inputs, *rest):
        found.append(inputs)
        return original(inputs, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counting)
    return found


@pytest.mark.parametrize(
    "inputs",
    [
        torch.randn(5, 24),
        torch.randn(24),
        torch.randn(0, 24),
        torch.randn(2, 3, 24),
        torch.randn(24, 7).t(),
        torch.randn(4, 3, 48)[..., :24],
    ],
    ids=lambda each: "x".join(map(str, each.shape)),
)
@pytest.mark.parametrize("biased", [True, False])
def test_any_input_of_a_linear_layer(inputs, biased, calls):
    weight, bias = torch.randn(40, 24), torch.randn(40) if biased else None
    with torch.inference_mode():
        found = onednn_linear(inputs, weight, bias)
    torch.testing.assert_close(found, functional.linear(inputs, weight, bias), rtol=1e-5, atol=1e-5)
    assert len(calls) == min(1, inputs.numel())


@pytest.mark.parametrize(
    "wanted", [(True, True, True), (False, True, True), (True, False, False), (False, False, True)]
)
@pytest.mark.parametrize("shape", [(7, 24), (2, 3, 24), (0, 24)])
def test_its_gradients_are_those_of_a_linear_layer(wanted, shape, calls):
    tensors = [torch.randn(shape), torch.randn(40, 24), torch.randn(40)]
    outward = torch.randn(*shape[:-1], 40)

    def gradients(product):
        own = [each.clone().requires_grad_(asked) for each, asked in zip(tensors, wanted, strict=True)]
        product(*own).backward(outward)
        return [each.grad for each in own]

    for ours, theirs in zip(gradients(onednn_linear), gradients(functional.linear), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(calls) == (1 + sum(wanted[:2]) if 0 not in shape else 0)


def test_other_numbers_stay_with_torch(calls):
    weight = torch.randn(40, 24)
    with torch.no_grad():
        for dtype in (torch.float64, torch.bfloat16):
            assert onednn_linear(torch.randn(5, 24, dtype=dtype), weight.to(dtype)).dtype is dtype
        with torch.autocast("cpu", torch.bfloat16):
            assert onednn_linear(torch.randn(5, 24), weight).dtype is torch.bfloat16
        onednn_linear(torch.randn(5, 24), _Divided(weight))
    assert not calls


class _Divided(torch.Tensor):
    """As one that ranks hold parts of: it says itself how it is multiplied."""


def test_a_module_multiplies_so_until_it_is_undone(calls):
    class Own(nn.Linear):
        """Somebody's own arithmetic."""

    kept = nn.Linear(24, 24)
    module = nn.Sequential(nn.Linear(24, 24), Conv1D(24, 24), Own(24, 24), kept, nn.Linear(24, 24).double())
    single, inputs = module[:4], torch.randn(5, 24)
    expected = single(inputs)
    undo = by_onednn(module, but=kept)
    with torch.inference_mode():
        torch.testing.assert_close(single(inputs), expected, rtol=1e-5, atol=1e-6)
    assert len(calls) == 2
    undo()
    assert not any("forward" in vars(layer) for layer in module)
    with torch.inference_mode():
        assert torch.equal(single(inputs), expected)
    assert len(calls) == 2


def test_layers_that_something_else_has_changed_are_left_alone():
    module = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 24))
    module[0].forward = lambda inputs: inputs  # type: ignore[method-assign]
    assert [layer for layer, _ in plain_layers(module)] == [module[1]]

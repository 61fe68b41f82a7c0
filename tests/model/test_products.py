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
    assert len(calls) == 1


def test_other_numbers_and_gradients_stay_with_torch(calls):
    weight = torch.randn(40, 24)
    with torch.no_grad():
        for dtype in (torch.float64, torch.bfloat16):
            assert onednn_linear(torch.randn(5, 24, dtype=dtype), weight.to(dtype)).dtype is dtype
        with torch.autocast("cpu", torch.bfloat16):
            assert onednn_linear(torch.randn(5, 24), weight).dtype is torch.bfloat16
    asked = torch.randn(5, 24, requires_grad=True)
    onednn_linear(asked, weight).sum().backward()
    torch.testing.assert_close(asked.grad, weight.sum(0).expand(5, 24))
    assert not calls


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

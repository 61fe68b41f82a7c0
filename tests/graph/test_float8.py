"""fp8 through torchao, computed with rounded numbers where there is no hardware for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigbatch.graph.casting import Casting
from bigbatch.graph.float8 import float8_obstacle

pytestmark = pytest.mark.filterwarnings("ignore")


def test_without_a_gpu_the_reason_is_said():
    assert float8_obstacle(torch.device("cpu")) == (
        "fp8 needs an NVIDIA GPU of compute capability 8.9; the device is cpu"
    )


def test_the_blocks_layers_have_twins_for_the_time_of_a_pass(small):
    pytest.importorskip("torchao", reason="the optional extra [torchao]")
    found = small()
    truth = found.padded()(found.batch)
    parameters = dict(found.module.named_parameters())
    layers = {name: part for name, part in found.module.named_modules() if isinstance(part, nn.Linear)}
    casting = Casting(found.module, found.policy(), "fp8", emulate=True)
    output = casting.run(found.padded())(found.batch)
    output.square().sum().backward()
    assert len(casting._float8) == 2 * 6, "the head stays fp32"
    assert 1e-3 < (output - truth).abs().max() / truth.abs().max() < 0.3
    assert all(layers[name] is part for name, part in found.module.named_modules() if name in layers)
    assert all(
        parameters[name] is p and p.grad.dtype == torch.float32 for name, p in found.module.named_parameters()
    )
    assert torch.equal(found.padded()(found.batch), truth)


@pytest.mark.parametrize("tokens", [16, 37])
def test_any_number_of_tokens(small, tokens):
    """Their sum is the inner dimension of a weight's gradient, which the hardware wants as a multiple of 16."""
    pytest.importorskip("torchao", reason="the optional extra [torchao]")
    found = small()
    casting = Casting(found.module, found.policy(), "fp8", emulate=True)
    twins = [twin for *_, twin in casting._float8._twins]
    assert all(twin.config.pad_inner_dim for twin in twins)
    (owner, child, layer, twin) = casting._float8._twins[0]
    states = torch.randn(tokens, layer.in_features)
    with torch.autocast("cpu", torch.bfloat16):
        out = twin(states)
    assert out.shape == (tokens, layer.out_features)
    out.float().sum().backward()
    expected = states.sum(0).expand_as(layer.weight)
    assert float((layer.weight.grad - expected).norm() / expected.norm()) < 0.1


def test_an_output_layer_that_hands_its_input_through_has_no_stand_in():
    pytest.importorskip("torchao", reason="the optional extra [torchao]")
    from bigbatch.graph.policy import policy_of
    from bigbatch.model.anatomy import anatomy
    from bigbatch.model.logits import deferred
    from bigbatch.model.runner import packed_runner
    from tests.models import tiny, tiny_batch

    model = tiny("llama", head="causal", tie_word_embeddings=False, vocab_size=128)
    parts = anatomy(model)
    forward = deferred(packed_runner(model, parts), parts.output_layer)
    casting = Casting(model, policy_of(model, parts, allow_low=["lm_head"]), "fp8", emulate=True)
    outputs = casting.run(forward)(tiny_batch(pools="tokens"))
    forward.close()
    assert outputs.hidden_UD.shape[1] == model.config.hidden_size and outputs.low == torch.bfloat16


@pytest.mark.gpu
def test_on_a_gpu_with_fp8(small):
    device = torch.device("cuda:0")
    if float8_obstacle(device):
        pytest.skip(float8_obstacle(device))
    found = small(hidden_size=64, intermediate_size=128)
    found.module.to(device)
    truth = found.padded()(found.batch)
    output = Casting(found.module, found.policy(), "fp8").run(found.padded())(found.batch)
    assert 1e-3 < (output - truth).abs().max() / truth.abs().max() < 0.3

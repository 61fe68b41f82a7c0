"""Autocast under a policy: formats where they belong, fp32 weights and gradients, nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bigbatch.model.adjust import set_trainable
from bigbatch.precision import casting as casting_module
from bigbatch.precision.casting import Casting, PlainAutocast, tf32_products
from bigbatch.step.executor import PlainExecutor

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
FAMILIES = ["bert", "albert", "electra", "distilbert", "modernbert", "gpt2", "llama"]


def seen_dtypes(small, casting, forward):
    """Module name -> dtype of its output during one pass."""
    dtypes, handles = {}, []
    for name, part in small.module.named_modules():

        def hook(_part, _args, output, name=name):
            if isinstance(output, torch.Tensor):
                dtypes[name] = output.dtype

        handles.append(part.register_forward_hook(hook))
    output = casting.forward(forward)(small.batch)
    for handle in handles:
        handle.remove()
    return dtypes, output


@pytest.mark.parametrize("name", FORMATS)
def test_linear_layers_of_blocks_are_low_and_the_rest_is_not(small, name):
    found = small()
    dtypes, output = seen_dtypes(found, found.casting(name), found.padded())
    assert dtypes["bert.encoder.layer.0.attention.self.query"] == FORMATS[name]
    assert dtypes["bert.encoder.layer.1.output.dense"] == FORMATS[name]
    for kept in (
        "bert.embeddings",
        "bert.encoder.layer.0.output.LayerNorm",
        "bert.pooler.dense",
        "classifier",
    ):
        assert dtypes[kept] == torch.float32, kept
    assert output.dtype == torch.float32


def test_patterns_change_what_is_computed_in_what(small):
    found = small()
    patterns = {"keep_fp32": ["bert.encoder.layer.1", "bert.encoder.layer.1.*"], "allow_low": ["bert.pooler"]}
    dtypes, _ = seen_dtypes(found, found.casting("bf16", **patterns), found.padded())
    assert dtypes["bert.encoder.layer.0.output.dense"] == torch.bfloat16
    inside = {dtype for name, dtype in dtypes.items() if ".layer.1." in name}
    assert inside == {torch.float32} and dtypes["bert.pooler.dense"] == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMATS)
def test_weights_and_gradients_stay_fp32_in_every_family(small, family, name):
    """Tied embeddings, ALBERT's shared block and frozen parameters among them."""
    found = small(family)
    frozen = next(iter(found.module.parameters())).requires_grad_(False)
    before = {key: value.clone() for key, value in found.module.state_dict().items()}
    reference = found.padded()(found.batch)
    reference.square().sum().backward()
    wanted = {key: p.grad.clone() for key, p in found.module.named_parameters() if p.grad is not None}
    found.module.zero_grad(set_to_none=True)
    casting = found.casting(name)
    forward = casting.forward(found.packed())
    output = forward(found.batch)
    output.square().sum().backward()
    forward.close()
    assert {p.dtype for p in found.module.parameters()} == {torch.float32} and frozen.grad is None
    assert {p.grad.dtype for p in found.module.parameters() if p.grad is not None} == {torch.float32}
    assert all(torch.equal(before[key], value) for key, value in found.module.state_dict().items())
    eps = torch.finfo(FORMATS[name]).eps
    error = torch.cat(
        [(p.grad - wanted[key]).flatten() for key, p in found.module.named_parameters() if key in wanted]
    )
    size = torch.cat([value.flatten() for value in wanted.values()]).norm()
    assert 0 < error.norm() / size < 10 * eps
    assert 0 < (output - reference).abs().max() / reference.abs().max() < 10 * eps


def test_a_tied_weight_gets_both_its_gradients_in_fp32():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(50, 16)
            self.up = nn.Linear(16, 16)
            self.out = nn.Linear(16, 50, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids):
            return self.out(self.up(self.words(ids)))

    torch.manual_seed(0)
    module, ids = Tied(), torch.arange(20)
    plain = copy.deepcopy(module)
    plain(ids).logsumexp(-1).sum().backward()
    policy = {part: not isinstance(part, nn.Embedding) for part in module.modules()}
    casting = Casting(module, policy, "bf16")
    with casting.forward_pass():
        output = module(ids)
    output.float().logsumexp(-1).sum().backward()
    assert module.words.weight.grad.dtype == torch.float32
    error = (module.words.weight.grad - plain.words.weight.grad).norm() / plain.words.weight.grad.norm()
    assert 0 < error < 0.03
    assert casting.weight_copies_bytes == 2 * (16 * 16 + 50 * 16), "one copy of the tied matrix"


def test_sums_over_micro_batches_are_fp32():
    """512 equal gradients: a bf16 sum would stop growing at 256 times the first."""
    module = nn.Linear(4, 3, bias=False)
    casting = Casting(module, {module: True}, "bf16")

    class Forward:
        def __init__(self):
            self.module = module

        def __call__(self, _batch):
            return module(torch.ones(1, 4))

    class Sum:
        def loss(self, outputs, targets):
            return {"sum": outputs.sum(-1)}

    from tests.models import tiny_batch

    executor = PlainExecutor(
        forward=casting.forward(Forward()), task=Sum(), device=torch.device("cpu"), seed=0
    )
    executor.accumulate(1, [tiny_batch()] * 512, {"sum": 1.0})
    assert module.weight.grad.unique().tolist() == [512.0]


def test_outside_a_pass_the_module_is_what_it_was(small):
    found = small()
    before = found.padded()(found.batch)
    casting = found.casting("bf16")
    assert torch.equal(found.padded()(found.batch), before), "the hooks do nothing"
    casting.forward(found.padded())(found.batch)
    assert torch.equal(found.padded()(found.batch), before)
    casting.close()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in found.module.modules())


def test_a_module_that_raises_leaves_no_autocast_behind(small):
    found = small()
    forward = found.casting("bf16").forward(found.padded())

    def fails(*_):
        raise RuntimeError("planted")

    handle = found.parts.head[-1].register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="planted"):
        forward(found.batch)
    handle.remove()
    assert not torch.is_autocast_enabled("cpu")
    assert forward(found.batch).dtype == torch.float32


def test_the_plain_path_is_torchs_own_autocast(small):
    found = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = found.padded()(found.batch).float()
    assert torch.equal(PlainAutocast(found.padded(), "bf16")(found.batch), wanted)


def test_a_model_under_a_policy_can_be_copied(small):
    found = small()
    casting = found.casting("bf16")
    twin = copy.deepcopy(found.module)
    casting.close()
    batch = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
    assert torch.equal(twin(**batch).logits, found.module(**batch).logits)


def test_frozen_bodies_train_their_heads(small):
    found = small()
    set_trainable(found.module, "head")
    output = found.casting("fp16").forward(found.packed())(found.batch)
    output.square().sum().backward()
    assert {name for name, p in found.module.named_parameters() if p.grad is not None} == {
        name for name, p in found.module.named_parameters() if p.requires_grad
    }


def test_tf32_is_switched_on_for_the_span_and_back_afterwards(small):
    def now():
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    before = now()
    found = small()
    casting = found.casting("tf32")
    with casting.span():
        assert now() == ("tf32", "tf32")
        with casting.forward_pass():
            assert now() == ("tf32", "tf32")
        assert now() == ("tf32", "tf32"), "the backward pass comes now"
    assert now() == before
    with pytest.raises(ValueError), tf32_products(True):
        raise ValueError
    assert now() == before
    assert casting.weight_copies_bytes == 0 and casting_module.AUTOCAST.get("tf32") is None

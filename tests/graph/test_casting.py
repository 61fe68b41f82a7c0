"""Autocast under a policy: formats where they belong, fp32 weights and gradients, nothing left behind."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from bigbatch.graph import casting as casting_module
from bigbatch.graph.casting import Casting, PlainAutocast
from bigbatch.graph.compiled import MOST_RECOMPILATIONS, compilations, compile_parts
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.graph.recompute import recompute
from bigbatch.graph.tf32 import tf32_products
from bigbatch.model.adjust import set_trainable
from bigbatch.model.runner import Runner
from tests.executors import one_by_one
from tests.models import tiny_batch

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
    output = casting.run(forward)(small.batch)
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
    forward = casting.run(found.packed())
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

    ones = Runner(
        module=module,
        feed=lambda _batch: {"input": torch.ones(1, 4)},
        outputs=lambda output: output,
        units=lambda outputs, _batch: outputs,
    )

    class Sum:
        def loss(self, outputs, targets):
            return {"sum": outputs.sum(-1)}

    executor = one_by_one(forward=casting.run(ones), task=Sum(), device=torch.device("cpu"), seed=0)
    executor.accumulate(1, [tiny_batch()] * 512, {"sum": 1.0})
    assert module.weight.grad.unique().tolist() == [512.0]


def test_outside_a_pass_the_module_is_what_it_was(small):
    found = small()
    before = found.padded()(found.batch)
    casting = found.casting("bf16")
    assert torch.equal(found.padded()(found.batch), before), "the hooks do nothing"
    casting.run(found.padded())(found.batch)
    assert torch.equal(found.padded()(found.batch), before)
    casting.close()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in found.module.modules())


def test_a_module_that_raises_leaves_no_autocast_behind(small):
    found = small()
    forward = found.casting("bf16").run(found.padded())

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
    output = found.casting("fp16").run(found.packed())(found.batch)
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


# ---------------------------------------------------------------- with what else is done to a forward


def gradient_of(found, forward):
    found.module.zero_grad(set_to_none=True)
    forward(found.batch).square().sum().backward()
    return {name: p.grad.clone() for name, p in found.module.named_parameters() if p.grad is not None}


KEPT = {
    "by role": {},
    "last block in fp32": {"keep_fp32": ["bert.encoder.layer.1", "bert.encoder.layer.1.*"]},
}
KEPT["first in fp32"] = {"keep_fp32": ["bert.encoder.layer.0", "bert.encoder.layer.0.*"]}


@pytest.mark.parametrize("kind", ["blocks", "selective"])
@pytest.mark.parametrize("patterns", KEPT.values(), ids=KEPT)
def test_a_block_that_is_recomputed_has_the_formats_that_it_had(small, patterns, kind):
    """Recomputation runs in the backward pass, where no forward pass is active."""
    found = small(num_hidden_layers=3)
    forward = found.casting("bf16", **patterns).run(found.packed())
    found.module.train()
    wanted = gradient_of(found, forward)
    undo = recompute(found.parts, kind, 2)
    again = gradient_of(found, forward)
    undo(), forward.close()
    assert all(torch.equal(wanted[name], gradient) for name, gradient in again.items()) and again
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("patterns", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("name", FORMATS)
def test_the_last_block_for_read_tokens_only_has_its_format(small, patterns, name):
    found = small()
    reference = found.packed()
    exact = reference(found.batch)
    reference.close()
    full = found.casting(name, **patterns).run(found.packed())
    wanted, wanted_gradient = full(found.batch), gradient_of(found, full)
    full.close()
    lazy = found.packed()
    read_tokens_only(lazy, found.parts)
    lazy = found.casting(name, **patterns).run(lazy)
    output, gradient = lazy(found.batch), gradient_of(found, lazy)
    lazy.close()
    eps = torch.finfo(FORMATS[name]).eps
    assert (output - wanted).abs().max() / exact.abs().max() < 4 * eps
    off = torch.cat([(gradient[key] - wanted_gradient[key]).flatten() for key in wanted_gradient]).norm()
    assert off / torch.cat([each.flatten() for each in wanted_gradient.values()]).norm() < 8 * eps
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in found.module.modules())


# torch hides this warning of its own while it traces, unless warnings are errors as in this session.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_compute_in_the_format_and_share_their_graphs(small):
    """Norms that widen their inputs neither keep a block from being compiled nor make it compile again."""
    torch._dynamo.reset()
    found = small(num_hidden_layers=4)
    forward = found.casting("bf16").run(found.packed())
    batches = [tiny_batch(lengths) for lengths in ((5, 9, 3, 9, 7), (12, 12, 5), (20, 1, 6, 2), (31, 30))]
    wanted = [gradient_of(replace(found, batch=batch), forward) for batch in batches]
    compile_parts(forward, found.parts, "blocks", backend="aot_eager")
    before, graphs = compilations(), []
    for batch, eager in zip(batches, wanted, strict=True):
        again = gradient_of(replace(found, batch=batch), forward)
        graphs.append(compilations() - before)
        off = torch.cat([(again[name] - eager[name]).flatten() for name in eager]).norm()
        assert off / torch.cat([each.flatten() for each in eager.values()]).norm() < 1e-2
    assert 0 < graphs[0] < 2 * 4 and graphs[-1] - graphs[0] <= MOST_RECOMPILATIONS, graphs
    forward.close()


def test_logits_over_a_vocabulary_may_be_low_and_come_out_in_fp32(small):
    found = small()
    policy = found.policy()
    assert not any(policy[part] for part in found.parts.head), "a classifier is small"
    large = small(num_labels=3000)
    assert large.policy()[large.module.classifier] and not large.policy()[large.module.bert.pooler]
    output = large.casting("bf16").run(large.packed())(large.batch)
    assert output.dtype == torch.float32 and output.shape[-1] == 3000


@pytest.mark.parametrize("family", ["bert", "llama", "qwen3", "modernbert", "gpt2"])
@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("lazy", [False, True])
def test_kernels_of_attention_are_given_one_format(small, monkeypatch, family, name, lazy):
    """Rotary positions leave fp32 queries and keys beside 16-bit values."""
    from bigbatch.graph.lazy import read_tokens_only
    from bigbatch.model import attention

    given = []
    inner = attention.KERNELS["sdpa"]

    def spy(query, key, value, *others, **options):
        given.append({query.dtype, key.dtype, value.dtype})
        return inner(query, key, value, *others, **options)

    monkeypatch.setitem(attention.KERNELS, "sdpa", spy)
    found = small(family)
    forward = found.packed()
    if lazy:
        read_tokens_only(forward, found.parts)
    found.casting(name).run(forward)(found.batch).sum().backward()
    forward.close()
    assert given and all(each == {FORMATS[name]} for each in given)


def test_attention_that_is_kept_in_fp32_stays_there(small, monkeypatch):
    from bigbatch.model import attention

    given = []
    inner = attention.KERNELS["sdpa"]
    monkeypatch.setitem(
        attention.KERNELS,
        "sdpa",
        lambda *heads, **options: given.append(heads[0].dtype) or inner(*heads, **options),
    )
    found = small("llama")
    forward = found.packed()
    found.casting("bf16", keep_fp32=["*self_attn*"]).run(forward)(found.batch)
    forward.close()
    assert set(given) == {torch.float32}


@pytest.mark.parametrize(("allowed", "product"), [([], torch.float32), (["lm_head"], torch.bfloat16)])
def test_logits_in_chunks_are_multiplied_as_the_policy_says(monkeypatch, allowed, product):
    """A head that is small here is kept in fp32 by its role; allowed, it is low as in a model with many token ids."""
    from bigbatch.graph.policy import policy_of
    from bigbatch.model.anatomy import anatomy
    from bigbatch.model.logits import deferred
    from bigbatch.model.runner import packed_runner
    from bigbatch.tasks.language import logits_in_parts, surprise, surprise_U
    from tests.models import tiny, tiny_batch

    model = tiny("llama", head="causal", tie_word_embeddings=False)
    parts = anatomy(model)
    batch = tiny_batch(pools="tokens")
    forward = deferred(packed_runner(model, parts), parts.output_layer)
    casting = Casting(model, policy_of(model, parts, allow_low=allowed), "bf16")
    used = []
    linear = torch.nn.functional.linear

    def seen(*given):
        used.append(given[0].dtype)
        return linear(*given)

    forward.product = seen
    outputs = casting.run(forward)(batch)
    forward.close()
    monkeypatch.setattr("torch.nn.functional.linear", seen)  # what a loss in a low format calls
    values_U = torch.as_tensor(batch.targets.values).long()
    whole = surprise(outputs, values_U)
    each_U = surprise_U(outputs, values_U)
    (_, logits), *_ = logits_in_parts(outputs)
    assert whole.dtype == each_U.dtype == logits.dtype == torch.float32
    assert outputs.low == (None if product is torch.float32 else product)
    assert product in used and (product is torch.float32 or torch.float32 not in used)
    truth, logits = linear(outputs.hidden_UD, outputs.weight_VD).detach(), logits.detach()
    assert float((logits - truth).norm() / truth.norm()) < (1e-6 if product is torch.float32 else 1e-2)
    whole.backward()
    assert model.lm_head.weight.grad.dtype == torch.float32 and model.lm_head.weight.grad.any()

"""Bases in 8 and 4 bits: their codes against the formula, gradients against fp64, memory, merging, foreign folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bigbatch.build.untrained import is_untrained
from bigbatch.errors import ModelError
from bigbatch.model.adapters import layers_of, linear_names, lora_layers, merged, put_in
from bigbatch.model.anatomy import anatomy, model_facts
from bigbatch.model.load import load_model
from bigbatch.model.quantised import IN_CONFIG, QuantisedLinear, quantise, quantised_layers
from bigbatch.model.tensors import base_digest, saved_tensors
from bigbatch.recipe.adapters import AdapterSpec
from bigbatch.recipe.learning import ModelSpec
from tests.models import tiny, tiny_folder
from tests.split import assert_equal, parts_of, rows_of, train_reference, train_split

pytest.importorskip("torchao", reason="the optional extra [torchao]")
pytest.importorskip("bitsandbytes", reason="the optional extra [bitsandbytes]")
IDS = torch.tensor([[5, 9, 11, 7, 3], [4, 4, 8, 20, 31]])
FORMATS = ("8bit", "4bit")


def rounded(family: str, to: Any, *, dtype: Any = torch.float64, **settings: Any) -> Any:
    """A tiny classifier whose blocks are rounded, with adapters whose B is not zero."""
    module = tiny(family).eval()
    layers = layers_of(AdapterSpec(r=4, alpha=12, base=to, **settings), anatomy(module))
    quantise(module, linear_names(anatomy(module)).blocks, to)
    put_in(module, layers, seed=3)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, item in module.named_parameters():
            if "lora_B" in name:
                item.copy_(torch.randn(item.shape, generator=draw) * 0.2)
    return module.to(dtype)


def weight_by_hand(layer: QuantisedLinear) -> torch.Tensor:
    """(out, in) fp64, looked up as the papers write it, without the libraries."""
    held = {name: item.detach() for name, item in layer.named_parameters()}
    if layer.format == "8bit":
        return held["codes"].double() * held["scales"].double()
    at = torch.stack([held["codes"].reshape(-1) >> 4, held["codes"].reshape(-1) & 15], 1).reshape(-1).long()
    outer = held["outer_scales"].double().repeat_interleave(256)[: len(held["scales"])]
    largest = held["outer_table"].double()[held["scales"].long()] * outer + held["offset"].double()
    numbers = layer.in_features * layer.out_features
    found = held["table"].double()[at][:numbers] * largest.repeat_interleave(64)[:numbers]
    return found.reshape(layer.out_features, layer.in_features)


@pytest.mark.parametrize(("to", "furthest"), [("8bit", 0.6 / 127), ("4bit", 0.17)])
def test_codes_stand_for_the_nearest_numbers(to, furthest):
    torch.manual_seed(1)
    for rows in (67, 48, 32):  # a block of 64 numbers may end inside a row
        small = QuantisedLinear(nn.Linear(rows, 96), to)
        torch.testing.assert_close(small.weight.double(), weight_by_hand(small), rtol=1e-6, atol=1e-8)
    plain = nn.Linear(130, 67)
    small = QuantisedLinear(plain, to)
    torch.testing.assert_close(small.weight.double(), weight_by_hand(small), rtol=1e-6, atol=1e-8)
    error = (small.weight - plain.weight).abs().amax() / plain.weight.abs().amax()
    assert 0 < error <= furthest  # half of the widest gap between two codes


@pytest.mark.parametrize(
    ("family", "to", "dora"), [("bert", "4bit", False), ("gpt2", "8bit", False), ("llama", "4bit", True)]
)
def test_outputs_and_gradients_are_those_of_the_weights_that_the_codes_stand_for(family, to, dora):
    module = rounded(family, to, dora=dora)
    trained = {name: item for name, item in module.named_parameters() if item.requires_grad}
    leaves = {name: item.detach().clone().requires_grad_() for name, item in trained.items()}
    plain = tiny(family).double().eval()
    weights = {**dict(plain.named_parameters()), **{k: v for k, v in leaves.items() if "lora_" not in k}}
    for name, layer in lora_layers(module):
        product = 3.0 * (leaves[f"{name}.lora_B.default.weight"] @ leaves[f"{name}.lora_A.default.weight"])
        base: Any = layer.get_base_layer()
        whole = weight_by_hand(base) + product
        if dora:
            whole = (leaves[f"{name}.lora_magnitude_vector.default.weight"] / whole.norm(dim=1).detach())[
                :, None
            ] * whole
        weights[f"{name}.weight"] = whole.T if family == "gpt2" else whole
    ours, theirs = (
        module(input_ids=IDS).logits,
        functional_call(plain, weights, kwargs={"input_ids": IDS}).logits,
    )
    # The libraries look up in fp32; what is looked up by hand is fp64.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    probe = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
    grads = torch.autograd.grad((ours.tanh() * probe).sum(), list(trained.values()))
    expected = torch.autograd.grad((theirs.tanh() * probe).sum(), list(leaves.values()))
    for name, one, other in zip(trained, grads, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * (other.norm() + 1e-6), name


@pytest.mark.parametrize("to", FORMATS)
def test_plan_counts_numbers_and_bytes_and_no_checkpoint_holds_codes(to):
    whole, module = model_facts(tiny("bert")), rounded("bert", to, dtype=torch.float32)
    found = model_facts(module)
    adapters = sum(item.numel() for name, item in module.named_parameters() if "lora_" in name)
    assert found.parameters == whole.parameters + adapters
    wide = sum(layer.in_features * layer.out_features for _, layer in quantised_layers(module))
    held = sum(item.nbytes for _, each in quantised_layers(module) for item in each.parameters(False))
    held -= sum(each.bias.nbytes for _, each in quantised_layers(module) if each.bias is not None)
    assert found.parameter_bytes == whole.parameter_bytes - 4 * wide + held + 4 * adapters
    assert not any("codes" in name or "scales" in name for name in saved_tensors(module)[0])


@pytest.mark.parametrize("to", FORMATS)
def test_merging_opens_the_codes_first(to):
    module = rounded("gpt2", to, dtype=torch.float32)
    setattr(module.config, IN_CONFIG, to)
    flat = merged(module)
    assert not list(quantised_layers(flat)) and list(quantised_layers(module))
    assert not hasattr(flat.config, IN_CONFIG) and getattr(module.config, IN_CONFIG) == to
    assert {type(part).__name__ for part in flat.modules() if "Conv1D" in type(part).__name__} == {"Conv1D"}
    with torch.no_grad():
        torch.testing.assert_close(
            flat(input_ids=IDS).logits, module(input_ids=IDS).logits, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("to", FORMATS)
def test_codes_follow_the_weights_alone_whatever_the_threads(to):
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(base_digest(rounded("bert", to, dtype=torch.float32)))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] != base_digest(rounded("bert", "8bit" if to == "4bit" else "4bit"))


@pytest.mark.parametrize(("to", "library"), [("8bit", "torchao"), ("4bit", "bitsandbytes")])
def test_a_missing_library_is_one_sentence(monkeypatch, tmp_path, to, library):
    modules = __import__("sys").modules
    for name in [name for name in modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(modules, name)
    monkeypatch.setitem(modules, library, None)
    tiny_folder(tmp_path / "base")
    with pytest.raises(ModelError, match=rf"{to} needs {library} .*; pip install 'bigbatch\[{library}\]'"):
        load_model(
            ModelSpec(name=str(tmp_path / "base"), adapter=AdapterSpec(base=to)),
            outputs=3,
            seed=0,
            dropout=None,
        )


@pytest.mark.parametrize(
    ("family", "to", "dtype"),
    [("bert", "4bit", torch.float64), ("bert", "4bit", torch.float32), ("llama", "8bit", torch.float64)],
)
def test_the_gradient_is_the_whole_padded_batchs_however_it_is_cut(family, to, dtype):
    module, rows = rounded(family, to, dtype=dtype), rows_of("single", 60, seed=5, longest=40)
    for micro_tokens, packing in ((96, "packed"), (384, "padded")):
        parts = parts_of(module, rows, "single", batch=24, micro_tokens=micro_tokens, packing=packing)
        found = train_split(parts, 1)
        expected = train_reference(
            module, parts, rows, "single", 1, pools="last" if family == "llama" else "first"
        )
        assert_equal(found, expected, dtype)
        assert found.micro_batches[0] > (1 if micro_tokens == 384 else 4)
        names = [*found.gradients[0]]
        assert any("lora_A" in name for name in names) and not any("codes" in name for name in names)


def test_tables_of_a_rounded_base_do_not_look_trained():
    for to in FORMATS:
        assert is_untrained(rounded("bert", to, dora=True))
    moved = tiny("bert")
    with torch.no_grad():
        moved.bert.embeddings.LayerNorm.bias[0] += 1e-3
    quantise(moved, linear_names(anatomy(moved)).blocks, "4bit")
    assert not is_untrained(moved)


def test_a_word_that_no_base_is_kept_in_is_refused(tmp_path):
    from bigbatch.model.adapter_folder import Base, write_adapters

    base: Path = tiny_folder(tmp_path / "base")
    module = load_model(
        ModelSpec(name=str(base), adapter=AdapterSpec(base="8bit")), outputs=3, seed=0, dropout=None
    ).module
    (tmp_path / "lora").mkdir()
    write_adapters(module, Base(name=str(base), revision=None, kind="sequence"), tmp_path / "lora")
    config = tmp_path / "lora/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), IN_CONFIG: "2bit"}))
    with pytest.raises(ModelError, match=r"config.json: bigbatch_base: found '2bit'; expected 8bit"):
        load_model(ModelSpec(name=str(tmp_path / "lora")), outputs=3, seed=0, dropout=None)

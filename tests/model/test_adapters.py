"""Adapters against their formula and against PEFT; which layers get them; folders of adapters, also hostile ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from transformers import AutoModelForSequenceClassification

from bigbatch.errors import ModelError
from bigbatch.model.adapter_folder import Base, write_adapters
from bigbatch.model.adapters import layers_of, lora_layers, merged, put_in, without
from bigbatch.model.anatomy import anatomy
from bigbatch.model.kinds import model_facts
from bigbatch.model.load import load_model
from bigbatch.model.tokenizer import load_tokenizer
from bigbatch.recipe.adapters import AdapterSpec
from bigbatch.recipe.learning import ModelSpec
from tests.models import tiny, tiny_folder, with_adapters

IDS = torch.tensor([[5, 9, 11, 7, 3], [4, 4, 8, 20, 31]])


def adapted(family: str, *, seed: int = 3, dtype: Any = torch.float64, **settings: Any) -> Any:
    """A tiny classifier with adapters whose B is not zero."""
    module = with_adapters(tiny(family).to(dtype).eval(), seed=seed, r=4, alpha=12, **settings)
    return module.to(dtype)


def by_hand(
    family: str, module: Any, found: dict[str, torch.Tensor], scale: float, dora: bool
) -> torch.Tensor:
    """The logits of a plain model whose weights are W + s B A, as the papers write them; `found`: what is trained."""
    plain = tiny(family).to(torch.float64).eval()
    weights = {**dict(plain.named_parameters()), **{k: v for k, v in found.items() if "lora_" not in k}}
    for name, _ in lora_layers(module):
        product = scale * (found[f"{name}.lora_B.default.weight"] @ found[f"{name}.lora_A.default.weight"])
        turned = family == "gpt2"  # its layers keep W as (in, out)
        whole = weights[f"{name}.weight"].T + product if turned else weights[f"{name}.weight"] + product
        if dora:
            lengths = whole.norm(dim=1).detach()  # DoRA, section 4.3: a constant
            whole = (found[f"{name}.lora_magnitude_vector.default.weight"] / lengths)[:, None] * whole
        weights[f"{name}.weight"] = whole.T if turned else whole
    return functional_call(plain, weights, kwargs={"input_ids": IDS}).logits


@pytest.mark.parametrize(
    ("family", "settings", "scale"),
    [
        ("bert", {}, 3.0),
        ("gpt2", {"rslora": True}, 6.0),
        ("llama", {"dora": True}, 3.0),
        ("gpt2", {"dora": True}, 3.0),
    ],
)
def test_outputs_and_gradients_are_those_of_the_formula(family, settings, scale):
    module = adapted(family, **settings)
    trained = {name: item for name, item in module.named_parameters() if item.requires_grad}
    leaves = {name: item.detach().clone().requires_grad_() for name, item in trained.items()}
    ours = module(input_ids=IDS).logits
    theirs = by_hand(family, module, leaves, scale, settings.get("dora", False))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    probe = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
    grads = torch.autograd.grad((ours.tanh() * probe).sum(), list(trained.values()))
    expected = torch.autograd.grad((theirs.tanh() * probe).sum(), list(leaves.values()))
    for name, one, other in zip(trained, grads, expected, strict=True):
        assert (one - other).norm() <= 1e-10 * (other.norm() + 1e-6), name
    assert any("lora_A" in name for name in trained) and any("lora_" not in name for name in trained)


def test_peft_itself_gives_the_same_bits_and_merging_the_same_logits():
    from peft import LoraConfig, get_peft_model

    module = adapted("bert", dtype=torch.float32)
    names = [name for name, _ in lora_layers(module)]
    wrapped: Any = get_peft_model(
        tiny("bert"), LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=12, target_modules=names)
    ).eval()
    values = module.state_dict()
    for name, item in wrapped.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
        item.copy_(values[plain.replace("original_module.", "")])
    with torch.no_grad():
        expected = wrapped(input_ids=IDS).logits
        assert torch.equal(module(input_ids=IDS).logits, expected)
        flat = merged(module)
        torch.testing.assert_close(flat(input_ids=IDS).logits, expected, rtol=1e-5, atol=1e-6)
        with without(module):
            assert torch.equal(module(input_ids=IDS).logits, tiny("bert").eval()(input_ids=IDS).logits)
    assert not any("lora" in name for name, _ in flat.named_parameters())
    assert any("lora" in name for name, _ in module.named_parameters())


def test_what_is_drawn_follows_the_seed_alone():
    before = torch.random.get_rng_state()
    one, same, other = (dict(adapted("bert", seed=seed).named_parameters()) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    drawn = [name for name in one if "lora_A" in name]
    assert all(torch.equal(one[name], same[name]) for name in drawn)
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


@pytest.mark.parametrize(
    ("family", "targets", "count"),
    [
        ("bert", "auto", 12), ("albert", "auto", 6), ("gpt2", "auto", 8), ("bert", ["query", "*.value"], 4),
        ("bert", ["*.layer.1.*"], 6),
    ],
)  # fmt: skip
def test_which_layers(family, targets, count):
    module = tiny(family)
    layers = layers_of(AdapterSpec(targets=targets), anatomy(module))
    said = put_in(module, layers, seed=0)
    assert len(layers.targets) == len(list(lora_layers(module))) == count and f"beside {count} linear" in said
    frozen = [name for name, item in module.named_parameters() if not item.requires_grad]
    assert frozen and not any("lora_" in name or name.startswith(("classifier", "score")) for name in frozen)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["querry"], "'querry' matches none of 12 linear layers; near names: query .2 layers."),
        (["classifier"], "matches the head alone, which is trained whole"),
        (["word_embeddings"], "matches none of 12 linear layers"),
    ],
)
def test_a_pattern_without_a_layer_is_refused(targets, words):
    with pytest.raises(ModelError, match=words):
        layers_of(AdapterSpec(targets=targets), anatomy(tiny("bert")))


# ---------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`base`, and `lora` with adapters of it."""
    home = tmp_path_factory.mktemp("home")
    base = tiny_folder(home / "base", num_labels=2)
    module = opened(base, adapter=AdapterSpec(r=4, alpha=12))
    with torch.no_grad():
        for item in module.parameters():
            if item.requires_grad:
                item.add_(torch.randn(item.shape, generator=torch.Generator().manual_seed(5)) * 0.1)
    (home / "lora").mkdir()
    write_adapters(module, Base(name=str(base), revision=None, kind="sequence"), home / "lora")
    return home


def opened(folder: Path, outputs: int = 2, **spec: Any) -> Any:
    found = load_model(
        ModelSpec(name=str(folder), **spec), kind="sequence", outputs=outputs, seed=0, dropout=None
    )
    return found.module.eval()


def changed(home: Path, folder: Path, **values: Any) -> Path:
    """A copy of the adapters with other settings."""
    folder.mkdir()
    for path in (home / "lora").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **values}))
    return folder


def test_peft_opens_the_folder_with_the_same_logits_and_so_do_we(home):
    from peft import AutoPeftModelForSequenceClassification, PeftModel

    ours = opened(home / "lora")
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(home / "lora", num_labels=2).eval()
    base = AutoModelForSequenceClassification.from_pretrained(home / "base", num_labels=2)
    by_hand = PeftModel.from_pretrained(base, home / "lora").eval()
    with torch.no_grad():
        logits = [model(input_ids=IDS).logits for model in (ours, theirs, by_hand)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert {item.requires_grad for name, item in ours.named_parameters() if "lora_" in name} == {True}
    assert load_tokenizer(ModelSpec(name=str(home / "lora")))("great flight")["input_ids"]  # the base's


@pytest.mark.parametrize(
    ("family", "spec", "key"),
    [
        ("llama", {"memory": 8}, "bigbatch_memory"),
        ("llama", {"attention": {"pattern": "local", "window": 3}}, "bigbatch_attention"),
        ("bert", {"config": {"hidden_act": "relu"}}, "hidden_act"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_adapters_are_opened_in_the_model_that_they_learnt_in(tmp_path, family, spec, key):
    base = tiny_folder(tmp_path / "base", family, num_labels=2)
    module = opened(base, adapter=AdapterSpec(r=4, alpha=12), **spec)
    (tmp_path / "lora").mkdir()
    write_adapters(module, Base(name=str(base), revision=None, kind="sequence"), tmp_path / "lora")
    again = opened(tmp_path / "lora")
    assert getattr(again.config, key) == getattr(module.config, key) == getattr(merged(again).config, key)
    assert getattr(opened(base).config, key, None) != getattr(module.config, key)
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, module(input_ids=IDS).logits)


def test_a_head_of_other_labels_is_made_anew(home):
    found = load_model(ModelSpec(name=str(home / "lora")), kind="sequence", outputs=3, seed=0, dropout=None)
    assert "another number of labels (2 before, 3 now): new head" in found.notes[-1]
    assert found.module.classifier.out_features == 3


@pytest.mark.parametrize("described", [True, False])
def test_a_first_recipe_goes_on_with_adapters(home, tmp_path, described):
    folder = changed(home, tmp_path / "x")
    if not described:
        (folder / "config.json").unlink()  # as PEFT leaves it
    found = model_facts(folder, "x")
    assert found.weights == "pretrained"  # not `init: random`, which a folder of adapters refuses
    assert (found.kind, found.hidden) == ("masked", model_facts(home / "base", "base").hidden)


HOSTILE = {
    "another kind": ({"peft_type": "IA3"}, "peft_type: found 'IA3'"),
    "a module to import": ({"megatron_config": {"x": 1}, "megatron_core": "evil"}, "megatron_config: found"),
    "a base that is changed": ({"init_lora_weights": "pissa"}, "init_lora_weights: found 'pissa'"),
    "patterns": ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern: found"),
    "no base": ({"base_model_name_or_path": None}, "base_model_name_or_path: found None"),
    "a base elsewhere": ({"base_model_name_or_path": "/nowhere/base"}, "there is no such folder here"),
    "a rank of text": ({"r": "4"}, "r: found '4'"),
    "another rank": ({"r": 5}, "has shape"),
    "no number": ({"lora_alpha": float("nan")}, "holds NaN"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_settings_that_are_not_read_are_refused(home, tmp_path, what):
    values, words = HOSTILE[what]
    with pytest.raises(ModelError, match=words):
        opened(changed(home, tmp_path / "x", **values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "layer.1.output.dense.lora_B" not in k},
            "1 tensors are missing",
        ),
        (lambda t: {**t, "base_model.model.bert.evil": torch.ones(2)}, "1 belong to nothing"),
        (lambda t: {k.replace("query", "quarry"): v for k, v in t.items()}, "is no linear layer"),
        (lambda t: {}, "no layer is no linear layer"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(home, tmp_path, change, words):
    folder = changed(home, tmp_path / "x")
    save_file(change(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=words):
        opened(folder)


def test_pickled_adapters_are_never_opened(home, tmp_path):
    folder = changed(home, tmp_path / "x")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="adapter_model.bin can run code when opened"):
        opened(folder)


def test_adapters_of_a_folder_go_on_as_they_are(home):
    with pytest.raises(ModelError, match="leave model.adapter and model.init out"):
        opened(home / "lora", adapter=AdapterSpec())


def test_a_missing_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModelError, match=r"adapters need peft .*; pip install 'bigbatch\[adapters\]'"):
        adapted("bert")

"""Live models in other number formats, or with a head that is not tied as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import bigbatch
from bigbatch.errors import ModelError
from bigbatch.model.export import save_model
from bigbatch.model.load import load_model
from bigbatch.model.masters import full_precision
from bigbatch.recipe.learning import ModelSpec
from tests.models import tiny, tiny_folder

ROWS = [
    {"text": text, "label": label}
    for text, label in [
        ("great flight", "pos"),
        ("late again", "neg"),
        ("good crew", "pos"),
        ("lost bag", "neg"),
    ]
    * 8
]


def dtypes(module: nn.Module) -> set[torch.dtype]:
    floats = [*module.parameters(), *module.buffers()]
    return {item.dtype for item in floats if item.is_floating_point()}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["bert", "llama", "modernbert", "gpt2"])
def test_16_bits_become_32_in_place(family: str, kind: torch.dtype) -> None:
    whole = tiny(family)
    model = tiny(family).to(kind)
    before = {name: item for name, item in model.named_parameters()}
    [note] = full_precision(model)
    assert str(kind).partition(".")[2] in note and "float32 now" in note
    assert dtypes(model) == {torch.float32} and model.dtype == torch.float32
    after = dict(model.named_parameters())
    assert all(after[name] is item for name, item in before.items())
    for name, buffer in whole.named_buffers():  # rotary frequencies were rounded with the weights
        assert torch.equal(buffer, model.get_buffer(name)), name
    assert full_precision(model) == []


def test_fp64_stays_and_mixtures_become_32() -> None:
    assert full_precision(tiny("llama").double()) == []
    model = tiny("llama")
    for name, item in model.named_parameters():
        if "norm" not in name:
            item.data = item.data.double()
    assert full_precision(model) != [] and dtypes(model) == {torch.float32}
    mixed = tiny("bert")
    mixed.bert.encoder.layer[0].bfloat16()
    assert "bfloat16 and float32" in full_precision(mixed)[0]
    assert dtypes(mixed) == {torch.float32}


def test_what_is_tied_or_frozen_stays_so() -> None:
    model = tiny("gpt2", head="causal").bfloat16()
    model.transformer.h[0].requires_grad_(False)
    full_precision(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert {item.requires_grad for item in model.transformer.h[0].parameters()} == {False}


def test_weights_that_are_no_numbers_are_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="on the meta device"):
        full_precision(model)
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(model.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ModelError, match=r"weight is torch\.float8_e4m3fn"):
        full_precision(model)


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_that_is_not_tied_as_its_configuration_says(equal: bool, tmp_path: Path) -> None:
    model: Any = tiny("gpt2", head="causal")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone() + (0 if equal else 1))
    loaded: Any = load_model(ModelSpec(name=None), kind="causal", seed=0, dropout=None, module=model)
    assert ("tied to its embeddings again" if equal else "it is not tied") in loaded.notes[0]
    assert (model.lm_head.weight is model.transformer.wte.weight) == equal
    save_model(model, None, tmp_path / "out", "card")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_a_live_model_in_bf16_trains_as_by_name(tmp_path: Path) -> None:
    """An update of 1e-4 is lost in the 8 bits of a weight of 1: none of the normalisation weights moved."""
    source = tiny_folder(tmp_path / "m", num_labels=2)
    tiny("bert", num_labels=2, vocab_size=49).bfloat16().save_pretrained(source)
    live = AutoModelForSequenceClassification.from_pretrained(source)
    assert live.dtype == torch.bfloat16
    norm = live.bert.encoder.layer[0].output.LayerNorm.weight
    settings: dict[str, Any] = {"batch_size": 8, "lr": 1e-4, "set": {"updates": 6, "seed": 1}}
    tokenizer = AutoTokenizer.from_pretrained(source)
    ours = bigbatch.train(live, ROWS, tokenizer=tokenizer, run_dir=tmp_path / "live", **settings)
    named = bigbatch.train(str(source), ROWS, run_dir=tmp_path / "named", **settings)
    assert ours.model is live and not live.training and dtypes(live) == {torch.float32}
    assert live.bert.encoder.layer[0].output.LayerNorm.weight is norm
    assert (norm != 1).float().mean() > 0.9
    left, right = dict(live.named_parameters()), dict(named.model.named_parameters())
    for name, item in left.items():
        torch.testing.assert_close(item, right[name], rtol=1e-5, atol=1e-6)
    events = [event for event in bigbatch.read(tmp_path / "live").events if event.get("event") == "note"]
    assert any("float32 now" in str(event["why"]) for event in events)

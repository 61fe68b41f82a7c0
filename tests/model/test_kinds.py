"""What a model folder says of itself, without being loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.auto import modeling_auto

from bigbatch.build.untrained import is_untrained
from bigbatch.errors import ModelError
from bigbatch.model.kinds import USUAL_CAUSAL, USUAL_MASKED, model_facts
from tests.models import FAMILIES, LAST_TOKEN, tiny


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bare", [False, True])
def test_causal_and_masked_are_told_apart_by_class_and_by_type(tmp_path: Path, family: str, bare: bool):
    model = tiny(family)
    (model.base_model if bare else model).save_pretrained(tmp_path)
    found = model_facts(tmp_path, "m")
    assert found.kind == ("causal" if family in LAST_TOKEN else "masked")
    assert found.labels == (() if bare else ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert found.labels_of == (None if bare else "texts")
    assert found.vocabulary == 100


def test_heads_of_words_have_names_in_order(tmp_path: Path):
    names = {index: f"tag {index}" for index in range(12)}
    tiny("bert", head="tokens", id2label=names).save_pretrained(tmp_path)
    found = model_facts(tmp_path, "m")
    assert (found.labels_of, found.labels) == ("words", tuple(names.values()))


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_is_one(tmp_path: Path, kind: str):
    model = (
        T5ForConditionalGeneration(
            T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        )
        if kind == "t5"
        else BartForConditionalGeneration(
            BartConfig(
                vocab_size=20,
                d_model=8,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=8,
                decoder_ffn_dim=8,
                max_position_embeddings=16,
            )
        )
    )
    model.save_pretrained(tmp_path)
    assert model_facts(tmp_path, "m").kind == "encoder-decoder"


def test_an_encoder_used_as_a_decoder_is_causal(tmp_path: Path):
    tiny("bert", head="causal", is_decoder=True).save_pretrained(tmp_path)
    assert model_facts(tmp_path, "m").kind == "causal"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_weights_that_nothing_has_trained_are_known(tmp_path: Path, family: str, dtype: torch.dtype):
    model = tiny(family).to(dtype)
    model.save_pretrained(tmp_path)
    assert model_facts(tmp_path, "m").weights == "random"
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([1])).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    assert model_facts(tmp_path, "m").weights == "pretrained"


def test_weights_in_several_files_and_none_at_all(tmp_path: Path):
    tiny("bert").save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert model_facts(tmp_path, "m").weights == "random"
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    tensors = load_file(last)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 1 and len(tensor) > 1)
    tensors[name][0] += 0.5
    save_file(tensors, last, metadata={"format": "pt"})
    assert model_facts(tmp_path, "m").weights == "pretrained"
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    assert model_facts(tmp_path, "m").weights == "none"


def test_folders_that_lie_are_refused_and_nothing_is_opened_elsewhere(tmp_path: Path):
    BertModel(tiny("bert").config).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../x.safetensors"}})
    )
    with pytest.raises(ModelError, match=r"weight_map: found '\.\./x\.safetensors'"):
        model_facts(tmp_path, "m")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="nested deeper"):
        model_facts(tmp_path, "m")
    with pytest.raises(ModelError):
        model_facts(tmp_path / "none", "m")


def test_the_short_tables_say_what_transformers_says():
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert set(masked) >= USUAL_MASKED
    assert set(causal) - set(masked) >= USUAL_CAUSAL


@pytest.mark.parametrize(
    ("kind", "expected"), [("fnet", "masked"), ("xglm", "causal"), ("no_such", "unknown")]
)
def test_other_types_are_looked_up(tmp_path: Path, kind: str, expected: str):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    found = model_facts(tmp_path, "m")
    assert (found.kind, found.weights) == (expected, "none")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_shows_the_same(tmp_path: Path, family: str):
    model = tiny(family)
    assert is_untrained(model)
    model.save_pretrained(tmp_path)
    assert model_facts(tmp_path, "m").weights == "random"
    norm = next(item for item in model.base_model.parameters() if item.ndim == 1)
    with torch.no_grad():
        norm[0] += 0.25
    assert not is_untrained(model)
    model.save_pretrained(tmp_path)
    assert model_facts(tmp_path, "m").weights == "pretrained"

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import anatomy, evaluating, model_facts
from tests.models import FAMILIES, LAST_TOKEN, tiny

CONTAINERS = {
    "distilbert": "distilbert.transformer",
    "gpt2": "transformer",
    "llama": "model",
    "mistral": "model",
    "modernbert": "model",
    "qwen2": "model",
    "qwen3": "model",
    "xlm-r": "roberta.encoder",
    "deberta-v3": "deberta.encoder",
}
NORMS = {
    "gpt2": "transformer.ln_f",
    "llama": "model.norm",
    "mistral": "model.norm",
    "qwen2": "model.norm",
    "qwen3": "model.norm",
    "modernbert": "model.final_norm",
}
HEADS = {
    "bert": ["bert.pooler", "classifier"],
    "albert": ["albert.pooler", "classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "deberta-v3": ["pooler", "classifier"],
    "modernbert": ["head", "classifier"],
    "gpt2": ["score"],
    "llama": ["score"],
    "mistral": ["score"],
    "qwen2": ["score"],
    "qwen3": ["score"],
}
EMBEDDINGS = {
    "gpt2": ["transformer.wte", "transformer.wpe"],
    "llama": ["model.embed_tokens"],
    "electra": ["electra.embeddings", "electra.embeddings_project"],
    "albert": ["albert.embeddings", "albert.encoder.embedding_hidden_mapping_in"],
    "modernbert": ["model.embeddings"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_found(family: str) -> None:
    model = tiny(family)
    names = {part: name for name, part in model.named_modules()}
    parts = anatomy(model)
    assert names[parts.blocks_container] == CONTAINERS.get(family, f"{family}.encoder")
    assert [block.index for block in parts.blocks] == list(range(model.config.num_hidden_layers))
    assert (names[parts.final_norm] if parts.final_norm else None) == NORMS.get(family)
    assert [names[part] for part in parts.head] == HEADS.get(family, ["classifier"])
    if family in EMBEDDINGS:
        assert [names[part] for part in parts.embeddings] == EMBEDDINGS[family]
    assert parts.pools == ("last" if family in LAST_TOKEN else "first")
    assert parts.pools_one_token
    assert parts.position_offset == (2 if family in ("roberta", "xlm-r", "mpnet") else 0)
    assert parts.max_positions == 64
    assert parts.uses_segments == (family in ("bert", "electra", "albert"))


def test_one_module_applied_many_times() -> None:
    parts = anatomy(tiny("albert"))
    assert len(parts.blocks) == 3
    assert len({block.module for block in parts.blocks}) == 1


def test_mean_pooling_reads_more_than_one_token() -> None:
    assert not anatomy(tiny("modernbert", classifier_pooling="mean")).pools_one_token


def test_a_head_of_zeros_hides_nothing() -> None:
    model = tiny("llama")
    nn.init.zeros_(model.score.weight)
    assert anatomy(model).pools == "last"


def test_the_trial_leaves_no_trace() -> None:
    model = tiny("bert", dropout=0.1).train()
    model.bert.encoder.layer[0].eval()
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    anatomy(model)
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_modes_come_back_after_an_error() -> None:
    model = tiny("bert").train()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training
        raise RuntimeError
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(2, 2), "found a Linear; expected a transformers model with a head"),
        (
            BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)),
            "BertModel has no head",
        ),
    ],
)
def test_what_is_no_classifier_is_refused(module: Any, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        anatomy(module)


def test_facts_count_tied_parameters_once_and_frozen_ones_apart() -> None:
    model = tiny("bert")
    model.bert.embeddings.requires_grad_(False)
    facts = model_facts(model)
    everything = sum(item.numel() for item in model.parameters())
    frozen = sum(item.numel() for item in model.bert.embeddings.parameters())
    assert (facts.parameters, facts.trainable_parameters) == (everything, everything - frozen)
    assert (facts.family, facts.hidden, facts.blocks, facts.vocabulary) == ("bert", 32, 2, 100)
    assert facts.parameter_bytes == 4 * everything
    assert facts.max_positions == 64

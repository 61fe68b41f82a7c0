"""Depths in real architectures."""

from __future__ import annotations

import pytest
from torch import nn

from bigbatch.model.anatomy import anatomy
from bigbatch.optim.depths import Depths, depths_of
from bigbatch.optim.groups import decay_groups
from tests.models import FAMILIES, tiny


def laid_out(family: str) -> tuple[nn.Module, Depths]:
    module = tiny(family)
    return module, depths_of(module, anatomy(module))


def test_bert_has_depths_from_embeddings_to_head() -> None:
    _, found = laid_out("bert")
    assert found.head == 3
    assert found.depths["bert.embeddings.word_embeddings.weight"] == 0
    assert found.depths["bert.embeddings.LayerNorm.weight"] == 0
    assert found.depths["bert.encoder.layer.0.attention.self.query.weight"] == 1
    assert found.depths["bert.encoder.layer.1.output.LayerNorm.bias"] == 2
    assert found.depths["bert.pooler.dense.weight"] == found.depths["classifier.bias"] == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_all_depths(family: str) -> None:
    module, found = laid_out(family)
    assert found.depths.keys() == {name for name, _ in module.named_parameters()}
    depths = set(found.depths.values())
    # ALBERT's only block counts as its last application.
    assert depths == ({0, 3, 4} if family == "albert" else set(range(found.head + 1)))


def test_rates_fall_from_the_head_down() -> None:
    module, found = laid_out("bert")
    groups = decay_groups(module, 0.01, depths=found, layer_decay=0.5)
    assert groups[0]["lr_scale"] == 1.0 and "classifier.weight" in groups[0]["names"]
    rates = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert rates["bert.encoder.layer.1.attention.self.query.weight"] == 0.5
    assert rates["bert.encoder.layer.0.attention.self.query.bias"] == 0.25
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.125
    assert [group["lr_scale"] for group in groups] == sorted((g["lr_scale"] for g in groups), reverse=True)
    assert sum(len(group["names"]) for group in groups) == len(found.depths)


def test_matrices_of_blocks_are_muons() -> None:
    module, found = laid_out("bert")
    groups = decay_groups(module, 0.01, depths=found, matrices_apart=True)
    turned = [name for group in groups if group["orthogonal"] for name in group["names"]]
    assert turned and all(".layer." in name and name.endswith("weight") for name in turned)
    rest = {name for group in groups if not group["orthogonal"] for name in group["names"]}
    assert {
        "bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight", "classifier.weight",
        "bert.encoder.layer.0.output.LayerNorm.weight", "bert.encoder.layer.0.output.dense.bias",
    } <= rest  # fmt: skip


def test_a_tied_output_layer_is_an_embedding() -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=0,
    )
    module = BertForMaskedLM(config)
    found = depths_of(module, anatomy(module))
    assert found.depths["bert.embeddings.word_embeddings.weight"] == 0
    assert found.depths["cls.predictions.transform.dense.weight"] == 3


def test_unknown_names_count_as_a_block_at_full_rate() -> None:
    found = Depths(depths={"a": 0}, head=3)
    assert found.in_block("b") and not found.in_block("a")
    assert (found.below_head("b"), found.below_head("a")) == (0, 3)

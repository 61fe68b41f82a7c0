"""Useful FLOPs against formulas written down here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigbatch.model.narrowed import narrow
from bigbatch.model.patterns import Pattern
from bigbatch.recipe.attention import AttentionSpec
from bigbatch.study.work import counted_work, matrix_shapes
from tests.model.test_sparse import mask_of
from tests.models import tiny, tiny_folder


def bert_forward_flops(n, *, hidden=32, inner=64, layers=2, classes=3):
    """Multiply-adds count two: projections and feed-forward per token, attention per pair, pooler and head once."""
    block = n * (4 * hidden * hidden + 2 * hidden * inner) + 2 * n * n * hidden
    return 2 * (layers * block + hidden * hidden + hidden * classes)


def test_bert_by_the_formula(tmp_path):
    tiny_folder(tmp_path)
    lengths = np.array([5, 9, 3, 64])
    found = counted_work(tmp_path, lengths)
    assert found.train_flops == pytest.approx(3 * sum(bert_forward_flops(int(n)) for n in lengths), rel=1e-9)
    assert found.constant == pytest.approx(2 * (32 * 32 + 32 * 3))


@pytest.mark.parametrize("family", ["albert", "gpt2", "llama"])
def test_other_families_grow_with_their_parameters(tmp_path, family):
    """linear = 2 x the weights that a token meets: ALBERT's one block three times."""
    tiny(family).save_pretrained(tmp_path)
    linear = counted_work(tmp_path, np.array([4])).linear
    expected = {
        # embedding projection 16 x 32; 3 applications of 4 x 32 x 32 and 2 x 32 x 64
        "albert": 16 * 32 + 3 * (4 * 32 * 32 + 2 * 32 * 64),
        # 2 blocks of 4 x 32 x 32 and 2 x 32 x 128; the head scores every token: 32 x 3
        "gpt2": 2 * (4 * 32 * 32 + 2 * 32 * 128) + 32 * 3,
        # 2 heads of keys and values of 8; gate, up, down; the head scores every token
        "llama": 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 32 * 3,
    }[family]
    assert linear == pytest.approx(2 * expected, rel=1e-9)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_of_attention_the_seen_pairs_count(tmp_path, family):
    """A mask written pair by pair, two products of the hidden width for each pair and block."""
    module, lengths = tiny(family), np.array([5, 9, 9, 37])
    asked = AttentionSpec.model_validate({"pattern": "fixed", "block": 8, "summary": 2, "global": 1})
    causal, found = family == "llama", {}
    for name in ("full", "fixed"):
        if name == "fixed":
            narrow(module, asked, family)
        module.save_pretrained(tmp_path / name)
        found[name] = counted_work(tmp_path / name, lengths).train_flops
    masks = {
        "fixed": [mask_of(Pattern(block=8, summary=2, first=1), n, causal) for n in lengths],
        "full": [torch.ones(n, n).tril() if causal else torch.ones(n, n) for n in lengths.tolist()],
    }
    pairs = {name: sum(float(mask.sum()) for mask in each) for name, each in masks.items()}
    assert pairs["fixed"] < 0.6 * pairs["full"]
    a_pair = 2 * 2 * 2 * module.config.hidden_size
    less = 3 * a_pair * (pairs["full"] - pairs["fixed"])
    assert found["full"] - found["fixed"] == pytest.approx(less, rel=1e-9)


def test_shapes_are_the_largest_linear_layers_once():
    assert matrix_shapes(tiny(), largest=3) == ((2048, 32, 64), (2048, 64, 32), (2048, 32, 32))

"""Which module computes in which format."""

from __future__ import annotations

import pytest
from torch import nn

from bigbatch.errors import RecipeError
from bigbatch.graph.policy import changes, is_norm, low_parameters, only, units_of


def low_names(small, **patterns):
    policy = small.policy(**patterns)
    return {name for name, part in small.module.named_modules() if policy[part]}


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "electra", "albert", "distilbert", "modernbert", "gpt2", "llama"]
)
def test_by_role_the_blocks_are_low_and_embeddings_norms_and_head_are_not(small, family):
    found = small(family)
    policy = found.policy()
    for part in (*found.parts.embeddings, *found.parts.head):
        assert not any(policy[inner] for inner in part.modules())
    assert not any(policy[part] for part in found.module.modules() if is_norm(part))
    for block in found.parts.blocks:
        matrices = [part for part in block.module.modules() if isinstance(part, nn.Linear)]
        assert all(policy[part] for part in matrices)
        inside = [part for part in block.module.modules() if is_norm(part)]
        assert inside or family == "modernbert"
    assert set(policy) == set(found.module.modules())


def test_patterns_override_roles_and_reach_what_is_inside(small):
    found = small()
    kept = low_names(found, keep_fp32=["*.layer.1.*"])
    assert not any(".layer.1." in name for name in kept)
    assert "bert.encoder.layer.0.attention.self.query" in kept
    assert {name for name in kept if name.startswith("bert.encoder.layer.0")} == {
        name for name in low_names(found) if name.startswith("bert.encoder.layer.0")
    }
    allowed = low_names(found, allow_low=["bert.pooler"])
    assert {"bert.pooler", "bert.pooler.dense"} <= allowed and "classifier" not in allowed
    both = low_names(found, allow_low=["bert.pooler"], keep_fp32=["*pooler*"])
    assert "bert.pooler" not in both


@pytest.mark.parametrize("key", ["keep_fp32", "allow_low"])
def test_a_pattern_that_matches_nothing_is_refused_with_examples(small, key):
    with pytest.raises(
        RecipeError, match=rf"plan\.precision\.{key}: found '\*\.layer\.11\.\*'.*names look like bert"
    ):
        small().policy(**{key: ["*.layer.11.*"]})


def test_hooks_are_needed_only_where_the_format_changes(small):
    found = small()
    changed = {
        name
        for name, part in found.module.named_modules()
        for one, _ in changes(found.module, found.policy())
        if one is part
    }
    assert "bert.encoder.layer.0.attention.self.query" not in changed
    assert {
        "",
        "bert.embeddings",
        "bert.pooler",
        "classifier",
        "bert.encoder.layer.0.output.LayerNorm",
    } <= changed
    assert "bert.embeddings.LayerNorm" not in changed


def test_units_and_their_cost(small):
    found = small("albert")
    units = units_of(found.module, found.parts)
    blocks = [unit for unit in units if unit.applications > 1]
    assert [unit.applications for unit in blocks] == [3], "one module, applied three times"
    matrices = 4 * 32 * 32 + 2 * 32 * 64
    assert blocks[0].products == 3 * matrices
    assert units[0].products == 0, "looking a row up multiplies nothing"


def test_only_one_unit(small):
    found = small()
    policy, units = found.policy(), units_of(found.module, found.parts)
    one = only(policy, units[1])
    low = {part for part, is_low in one.items() if is_low}
    assert low and low <= set(units[1].module.modules())


def test_copies_are_made_of_low_matrices_alone(small):
    found = small()
    names = {id(parameter): name for name, parameter in found.module.named_parameters()}
    low = {names[id(parameter)] for parameter in low_parameters(found.policy())}
    assert all(".layer." in name and name.endswith("weight") and "LayerNorm" not in name for name in low)
    assert len(low) == 2 * 6

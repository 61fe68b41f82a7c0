from __future__ import annotations

from typing import Any

import pytest

from bigbatch.errors import ModelError
from bigbatch.model.adjust import set_dropout_fields, set_trainable
from tests.models import tiny


def _trained(model: Any) -> list[str]:
    return [name for name, item in model.named_parameters() if item.requires_grad]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", ["bert.pooler.dense", "classifier"]),
        ("roberta", ["classifier.dense", "classifier.out_proj"]),
        ("distilbert", ["pre_classifier", "classifier"]),
        ("llama", ["score"]),
    ],
)
def test_head_is_what_runs_after_the_blocks(family: str, expected: list[str]) -> None:
    model = tiny(family)
    set_trainable(model, "head")
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in _trained(model))) == expected


def test_patterns_choose_by_name() -> None:
    model = tiny("bert")
    set_trainable(model, ["*.layer.1.*", "classifier.bias"])
    found = _trained(model)
    assert "classifier.bias" in found
    assert all(".layer.1." in name for name in found if name != "classifier.bias")
    assert len(found) == 17


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("clasifier.*", r"classifier\.\*"), ("bert.encoder.layers.1.*", r"bert\.encoder\.layer")],
)
def test_a_pattern_that_matches_nothing_names_what_is_near(pattern: str, near: str) -> None:
    with pytest.raises(ModelError, match=f"matches no parameter; near names: .*{near}"):
        set_trainable(tiny("bert"), [pattern])


def test_nothing_left_to_train() -> None:
    model = tiny("bert")
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter is left to train"):
        set_trainable(model, "all")


def test_dropout_fields_without_layer_dropping() -> None:
    config = tiny("distilbert").config
    config.layerdrop = 0.1
    fields = set_dropout_fields(config, 0.4)
    assert set(fields) == {"dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"}
    assert config.seq_classif_dropout == 0.4
    assert config.layerdrop == 0.1

from __future__ import annotations

import pytest
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from bigbatch.model.names import aliases, clean_name, named_parameters, tied_names, unwrap
from tests.models import tiny


@pytest.mark.parametrize(
    ("wrapped", "plain"),
    [
        ("module.bert.pooler.dense.bias", "bert.pooler.dense.bias"),
        ("_orig_mod.module.score.weight", "score.weight"),
        ("module._fsdp_wrapped_module.h.0._fsdp_wrapped_module.w", "h.0.w"),
        ("layer.0._checkpoint_wrapped_module.w", "layer.0.w"),
        ("encoder.module.w", "encoder.module.w"),
    ],
)
def test_wrapper_prefixes_are_taken_off(wrapped: str, plain: str) -> None:
    assert clean_name(wrapped) == plain


def test_tied_tensors_are_named_once() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    assert tied_names(model) == (("transformer.wte.weight", "lm_head.weight"),)
    assert aliases(model) == {"lm_head.weight": "transformer.wte.weight"}
    assert "lm_head.weight" not in named_parameters(model)


class _Compiled(nn.Module):
    """As torch.compile wraps a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_names_through_a_wrapper() -> None:
    model = tiny("bert")
    wrapped = _Compiled(model)
    assert list(named_parameters(wrapped)) == list(named_parameters(model))
    assert unwrap(wrapped) is model

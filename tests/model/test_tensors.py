"""What identifies the weights and the settings that training starts from."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from bigbatch.model.tensors import module_digest, named_tensors
from tests.models import tiny


def test_the_digest_knows_weights_frozen_ones_and_settings() -> None:
    same = module_digest(tiny("bert"))
    assert module_digest(tiny("bert")) == same
    assert module_digest(tiny("bert").train()) == same, "the mode is the run's business"
    wrapped = nn.Module()
    wrapped._orig_mod = tiny("bert")
    assert module_digest(wrapped) == same

    changed = [tiny("bert", seed=1), tiny("bert", dropout=0.1), *(tiny("bert") for _ in range(3))]
    changed[2].bert.requires_grad_(False)
    changed[3].dropout.p = 0.3
    with torch.no_grad():
        changed[4].classifier.bias[0] += 1e-7
    assert len({same, *map(module_digest, changed)}) == 1 + len(changed)


def test_the_digest_of_an_adapter_knows_its_settings() -> None:
    def wrapped(alpha: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["query"], task_type="SEQ_CLS")
            return get_peft_model(tiny("bert"), config)

    assert module_digest(wrapped(4)) == module_digest(wrapped(4)) != module_digest(wrapped(8))


def test_tensors_are_the_modules_own_and_tied_ones_are_once() -> None:
    model = tiny("bert")
    tensors, aliases = named_tensors(copy.deepcopy(model))
    assert aliases == {} and set(tensors) == set(dict(model.named_parameters()))
    model.classifier.bias = model.bert.pooler.dense.bias
    tensors, aliases = named_tensors(model)
    assert tensors["bert.pooler.dense.bias"] is model.bert.pooler.dense.bias
    assert aliases == {"classifier.bias": "bert.pooler.dense.bias"}

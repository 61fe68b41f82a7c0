"""Texts of models with a pattern of attention: a batch that is padded on the left writes what each prompt gets alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bigbatch.data.tokens import as_table
from bigbatch.infer.decoding import Marks, batch_of_prompts, by_transformers, stepwise
from bigbatch.infer.sampling import Decoding
from bigbatch.model.narrowed import narrow
from bigbatch.samples import Sample
from tests.model.test_narrowed import SPECS, spec_of
from tests.models import tiny

LENGTHS, WRITTEN = (3, 9, 14), 8
MARKS = Marks(ends=(), pad=0)


def writer(family: str, pattern: str) -> Any:
    module: Any = tiny(family, head="causal").double().eval()
    narrow(module, spec_of(pattern), family)
    module.config.eos_token_id = module.generation_config.eos_token_id = None
    return module


def prompts() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(3, 90, length).astype(np.int32) for length in LENGTHS]


def again_and_again(module: nn.Module, prompt: np.ndarray) -> list[int]:
    """The likeliest token by a pass over the whole text, without cache or padding."""
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    for _ in range(WRITTEN):
        ids = torch.cat([ids, module(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("pattern", SPECS)
def test_a_batch_writes_what_each_prompt_gets_alone(family: str, pattern: str) -> None:
    module, given = writer(family, pattern), prompts()
    table = as_table([_sample(prompt) for prompt in given])
    most_B = np.full(len(given), WRITTEN)
    batch = batch_of_prompts(table, np.arange(len(given)), most_B, MARKS, torch.device("cpu"))
    with torch.inference_mode():
        expected = [again_and_again(module, prompt) for prompt in given]
        assert by_transformers(module, batch, Decoding()).tolist() == expected
        assert stepwise(module, batch, WRITTEN).tolist() == expected
    assert len({tuple(each) for each in expected}) > 1


def _sample(ids: np.ndarray) -> Sample:
    empty = np.zeros(0, np.int32)
    return Sample(ids=ids, segments=None, reads=empty, values=empty, weights=np.zeros(0, np.float32))

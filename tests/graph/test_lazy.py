"""The last block for read tokens only equals the full path: outputs and every gradient, fp64 and fp32."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bigbatch.graph import lazy
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.model import grouped
from bigbatch.model.anatomy import anatomy
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.samples import MicroBatch
from tests.models import PACKABLE, tiny, tiny_batch

LENGTHS = (12, 12, 5, 9, 3, 9, 7, 20, 1, 6)
RMS_IN_FP32 = ("llama", "mistral", "qwen2", "qwen3")
"""Their norms compute in fp32 whatever the model's precision: two passes through a norm round twice."""


@pytest.fixture(autouse=True)
def norms_in_their_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm of transformers without its detour over fp32, which would hide the algebra behind rounding."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)

    for norm in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


def batch_for(model: nn.Module, reads: str = "pooled", seed: int = 0) -> MicroBatch:
    """A pack; `reads` may be several tokens of some samples, none of others, one twice."""
    parts = anatomy(model)
    batch = tiny_batch(LENGTHS, pools=parts.pools, segments=parts.uses_segments, seed=seed)
    if reads == "pooled":
        return batch
    ends_B = batch.lengths_B.cumsum()
    chosen = [(0, 3), (0, 7), (1, 0), (3, 8), (3, 8), (4, 1), (7, 0), (7, 11), (7, 19), (9, 2)]
    sample_U = np.array([sample for sample, _ in chosen])
    reads_U = ends_B[sample_U] - batch.lengths_B[sample_U] + np.array([at for _, at in chosen])
    return batch.reading(reads_U, sample_U)


def outcome(model: nn.Module, forward: Any, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = forward(batch)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    (found * weights).sum().backward()
    gradients = {name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None}
    return found.detach(), gradients


def both(model: nn.Module, batch: MicroBatch) -> tuple[Any, Any]:
    """In full and lazily."""
    found = []
    for is_lazy in (False, True):
        forward = packed_runner(model, anatomy(model))
        if is_lazy:
            read_tokens_only(forward, anatomy(model))
        found.append(outcome(model, forward, batch))
        forward.close()
    return found[0], found[1]


def worst(full: Any, lazily: Any) -> float:
    """Largest relative error: of the outputs, and of each tensor's gradient as the contract measures it."""
    outputs = float((full[0] - lazily[0]).abs().max() / full[0].abs().max())
    assert full[1].keys() == lazily[1].keys()
    whole = torch.stack([item.norm() for item in full[1].values()]).norm() / len(full[1]) ** 0.5
    errors = [
        float((lazily[1][name] - item).norm() / (item.norm() + 1e-3 * whole))
        for name, item in full[1].items()
    ]
    return max(outputs, *errors)


@pytest.mark.parametrize("reads", ["pooled", "many"])
@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_equal_to_the_full_path(family: str, dtype: torch.dtype, tolerance: float, reads: str) -> None:
    model = tiny(family, initializer_range=0.05).to(dtype)
    if reads == "many" and anatomy(model).pools == "last":
        model = tiny(family, head="causal", initializer_range=0.05).to(dtype)
    full, lazily = both(model, batch_for(model, reads))
    assert worst(full, lazily) <= tolerance


@pytest.mark.parametrize("head", ["tokens", "masked"])
def test_heads_that_read_several_tokens(head: str) -> None:
    model = tiny("bert", head=head).double()
    full, lazily = both(model, batch_for(model, "many"))
    assert worst(full, lazily) <= 1e-10


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "mistral", "albert"])
def test_the_feed_forward_of_the_last_block_sees_read_tokens_only(family: str) -> None:
    model = tiny(family)
    forward = packed_runner(model, anatomy(model))
    read_tokens_only(forward, anatomy(model))
    rows: list[int] = []
    widest = max(
        (
            part
            for part in anatomy(model).blocks[-1].module.modules()
            if isinstance(part, nn.Linear) or hasattr(part, "nf")
        ),
        key=lambda part: part.weight.shape[0] * (part.weight.shape[0] != part.weight.shape[1]),
    )
    handle = widest.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[-2]))
    batch = batch_for(model)
    forward(batch)
    handle.remove()
    assert rows[-1] == len(LENGTHS) < batch.tokens


def test_a_pack_that_is_read_nearly_everywhere_runs_in_full() -> None:
    model = tiny("bert", head="tokens")
    forward = packed_runner(model, anatomy(model))
    read_tokens_only(forward, anatomy(model))
    batch = tiny_batch(LENGTHS)
    everywhere = batch.reading(np.arange(batch.tokens), np.repeat(np.arange(len(LENGTHS)), LENGTHS))
    seen: list[int] = []
    handle = (
        anatomy(model)
        .blocks[-1]
        .module.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[1]))
    )
    forward(everywhere)
    handle.remove()
    assert seen == [batch.tokens]


def test_closing_puts_the_block_back() -> None:
    model = tiny("bert")
    block = anatomy(model).blocks[-1].module
    before = (dict(block._forward_hooks), dict(block._forward_pre_hooks))
    forward = packed_runner(model, anatomy(model))
    read_tokens_only(forward, anatomy(model))
    assert block._forward_pre_hooks
    forward.close()
    assert (dict(block._forward_hooks), dict(block._forward_pre_hooks)) == before


def test_a_copy_of_a_lazy_model_runs_on_its_own() -> None:
    model = tiny("bert")
    forward = packed_runner(model, anatomy(model))
    read_tokens_only(forward, anatomy(model))
    batch = batch_for(model)
    with torch.no_grad():
        expected = forward(batch)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        found = padded_runner(twin, 0)(batch)
    assert torch.allclose(found, expected, atol=1e-5)


class TestPlantedFaults:
    """Each must move the result far beyond the tolerance."""

    @pytest.mark.parametrize("family", ["bert", "gpt2", "mistral"])
    def test_keys_of_read_tokens_only(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny(family).double()
        right = lazy._rows_of
        full, _ = both(model, batch_for(model))

        def wrong(value: Any, last: Any, tokens: int) -> Any:
            for name in ("keys_1HTW", "values_1HTW"):
                whole = getattr(last, name)
                setattr(
                    last, name, torch.zeros_like(whole).index_copy(2, last.rows_R, whole[:, :, last.rows_R])
                )
            return right(value, last, tokens)

        monkeypatch.setattr(lazy, "_rows_of", wrong)
        _, lazily = both(model, batch_for(model))
        assert worst(full, lazily) > 1e-3

    def test_rotary_positions_of_the_first_tokens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny("llama").double()
        full, _ = both(model, batch_for(model))

        def wrong(value: Any, last: Any, tokens: int) -> Any:
            if isinstance(value, tuple):
                return tuple(item[:, : len(last.rows_R)] for item in value)
            return (
                value[:, last.rows_R]
                if isinstance(value, Tensor) and value.shape[:2] == (1, tokens)
                else value
            )

        monkeypatch.setattr(lazy, "_rows_of", wrong)
        _, lazily = both(model, batch_for(model))
        assert worst(full, lazily) > 1e-3

    @pytest.mark.parametrize("family", ["gpt2", "mistral"])
    def test_a_mask_that_forgets_what_comes_later(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny(family, head="causal").double()
        full, _ = both(model, batch_for(model, "many"))
        monkeypatch.setattr(grouped, "_mask_of_reads", lambda group, *_: group.real_BK)
        _, lazily = both(model, batch_for(model, "many"))
        assert worst(full, lazily) > 1e-3

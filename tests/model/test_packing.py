"""Packed equals padded, bit for bit where samples must not touch, and planted faults show."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bigbatch.model import feeds, layout
from bigbatch.model.anatomy import anatomy
from bigbatch.model.packing import can_pack
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.samples import MicroBatch
from tests.models import PACKABLE, tiny, tiny_batch

LENGTHS = (12, 12, 5, 9, 3, 9, 7, 20, 1, 6)


def _batch(model: nn.Module, lengths: Any = LENGTHS, seed: int = 0) -> MicroBatch:
    parts = anatomy(model)
    return tiny_batch(lengths, pools=parts.pools, segments=parts.uses_segments, seed=seed)


def _plain(model: Any, batch: MicroBatch, sample: int) -> Tensor:
    """Logits of one sample alone, by transformers only."""
    start = int(batch.lengths_B[:sample].sum())
    cut = slice(start, start + int(batch.lengths_B[sample]))
    inputs = {"input_ids": torch.as_tensor(batch.ids_T[cut])[None]}
    if batch.segments_T is not None:
        inputs["token_type_ids"] = torch.as_tensor(batch.segments_T[cut])[None]
    return model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits[0]


def _gradients(model: nn.Module, logits: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    model.zero_grad()
    (logits * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def _packed_error(model: nn.Module, batch: MicroBatch) -> float:
    """Largest deviation of packed logits from the samples run one by one."""
    packed = packed_runner(model, anatomy(model))
    with torch.no_grad():
        found = packed(batch)
    packed.close()
    with torch.no_grad():
        expected = torch.stack([_plain(model, batch, index) for index in range(len(batch.lengths_B))])
    return _relative(found, expected)


@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_packed_and_padded_equal_samples_one_by_one(
    family: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny(family).to(dtype)
    batch = _batch(model)
    expected = torch.stack([_plain(model, batch, index) for index in range(len(LENGTHS))])
    gradient = _gradients(model, expected)
    packed = packed_runner(model, anatomy(model))
    for forward in (packed, padded_runner(model, model.config.pad_token_id)):
        found = forward(batch)
        assert _relative(found, expected) <= tolerance
        assert _relative(_gradients(model, found), gradient) <= tolerance


@pytest.mark.parametrize("family", PACKABLE)
def test_another_sample_never_leaks(family: str) -> None:
    model = tiny(family)
    forward = packed_runner(model, anatomy(model))
    batch = _batch(model)
    ids_T = batch.ids_T.copy()
    ids_T[12:24] = 99 - ids_T[12:24]  # the second sample
    tokens = replace(batch.table["tokens"], columns={**batch.table["tokens"].columns, "ids": ids_T})
    changed = replace(batch, table=batch.table.replaced(tokens=tokens))
    with torch.no_grad():
        before, after = forward(batch), forward(changed)
    others = np.arange(len(LENGTHS)) != 1
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("lengths", [(7,), (6, 6, 6), (1, 1), (1, 40), tuple(range(1, 30))])
def test_any_lengths(lengths: tuple[int, ...]) -> None:
    model = tiny("bert").double()
    assert _packed_error(model, _batch(model, lengths)) <= 1e-10


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert", "mistral"])
class TestPlantedFaults:
    """Each fault must move the logits far beyond the tolerance."""

    def test_positions_not_reset(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            feeds, "positions_in_sample", lambda ends, offset=0: np.arange(ends[-1]) % 60 + offset
        )
        model = tiny(family).double()
        batch = _batch(model)
        if family in (
            "modernbert",
            "mistral",
        ):  # rotary positions are relative: only a break inside a sample shows
            monkeypatch.setattr(
                feeds, "positions_in_sample", lambda ends, offset=0: np.arange(ends[-1]) % 8 + offset
            )
        assert _packed_error(model, batch) > 1e-3

    def test_cumulative_lengths_off_by_one(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        right = layout.cumulative_lengths

        def wrong(lengths_B: np.ndarray) -> np.ndarray:
            ends = right(lengths_B)
            ends[1:-1] += 1
            return ends

        monkeypatch.setattr(layout, "cumulative_lengths", wrong)
        monkeypatch.setattr(
            layout,
            "group_samples",
            lambda lengths, **_: [(index, index + 1) for index in range(len(lengths))],
        )
        model = tiny(family).double()
        assert _packed_error(model, _batch(model)) > 1e-3

    def test_attention_across_samples(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def one_sample(cumulative: Any, first: int, end: int, device: Any) -> layout.Group:
            tokens = int(cumulative[-1])
            return layout.Group(tokens=tokens, samples=1, longest=tokens, slots_T=None, real_BK=None)

        monkeypatch.setattr(layout, "_group", one_sample)
        monkeypatch.setattr(layout, "group_samples", lambda lengths, **_: [(0, len(lengths))])
        model = tiny(family).double()
        assert _packed_error(model, _batch(model)) > 1e-3


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("mpnet", {}, "does not use transformers' attention interface"),
        ("deberta-v3", {}, "does not use transformers' attention interface"),
        ("modernbert", {"classifier_pooling": "mean"}, "reads more than one token"),
    ],
)
def test_what_cannot_be_packed_says_why_and_runs_padded(family: str, config: Any, reason: str) -> None:
    model = tiny(family, **config).double()
    implementation = model.config._attn_implementation
    possible, why = can_pack(model)
    assert not possible
    assert reason in why
    assert model.config._attn_implementation == implementation
    batch = _batch(model)
    found = padded_runner(model, model.config.pad_token_id)(batch)
    expected = torch.stack([_plain(model, batch, index) for index in range(len(LENGTHS))])
    assert _relative(found, expected) <= 1e-10


@pytest.mark.parametrize("family", PACKABLE)
def test_what_can_be_packed_is_left_as_it_was(family: str) -> None:
    model = tiny(family, dropout=0.1).train()
    implementation, state = model.config._attn_implementation, torch.get_rng_state()
    assert can_pack(model) == (True, "every block uses transformers' attention interface")
    assert model.config._attn_implementation == implementation
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_block_that_mixes_tokens_by_itself_is_found() -> None:
    model = tiny("bert")
    block = model.bert.encoder.layer[1]

    def shift(_block: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output + output.roll(1, dims=1)

    block.register_forward_hook(shift)
    assert can_pack(model) == (False, "a sample's output depends on its neighbours")


def test_a_block_without_attention_interface_is_counted() -> None:
    model = tiny("bert")
    layer = model.bert.encoder.layer[1]
    layer.attention.forward = lambda hidden, *_args, **_kwargs: (hidden, None)
    assert can_pack(model) == (False, "only 1 of 2 blocks used transformers' attention interface")


def test_padded_path_keeps_its_bits_while_packing_is_installed() -> None:
    model = tiny("bert")
    batch = _batch(model)
    padded = padded_runner(model, 0)
    with torch.no_grad():
        before = padded(batch)
        packed = packed_runner(model, anatomy(model))
        packed(batch)
        assert torch.equal(padded(batch), before)
        packed.close()
        assert torch.equal(padded(batch), before)
    assert model.config._attn_implementation == "sdpa"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_packing_twice_and_on_a_copy() -> None:
    model = tiny("gpt2").double()
    batch = _batch(model)
    first, second = packed_runner(model, anatomy(model)), packed_runner(model, anatomy(model))
    twin = copy.deepcopy(model)
    third = packed_runner(twin, anatomy(twin))
    with torch.no_grad():
        results = [forward(batch) for forward in (first, second, third)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_several_units_of_one_sample_are_read_in_order() -> None:
    model = tiny("distilbert").double()
    batch = _batch(model, (4, 6))
    two = batch.reading(np.array([0, 4, 4]), np.array([0, 1, 1]))
    with torch.no_grad():
        expected = padded_runner(model, 0)(two)
        found = packed_runner(model, anatomy(model))(two)
    assert _relative(found, expected) <= 1e-10
    assert torch.equal(expected[1], expected[2])


def test_pooler_and_head_see_only_what_they_read() -> None:
    model = tiny("bert")
    seen: list[tuple[int, ...]] = []
    forward, batch = packed_runner(model, anatomy(model)), _batch(model)
    model.bert.pooler.register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape)))
    forward(batch)
    assert seen == [(len(LENGTHS), 1, 32)]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_two_models_in_two_threads(family: str) -> None:
    models = [tiny(family, seed=seed) for seed in (1, 2)]
    batches = [_batch(model, lengths) for model, lengths in zip(models, [LENGTHS, (30, 2, 8)], strict=True)]
    packed = [packed_runner(model, anatomy(model)) for model in models]
    with torch.no_grad():
        expected = [forward(batch) for forward, batch in zip(packed, batches, strict=True)]
    wrong: list[int] = []

    def work(which: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(packed[which](batches[which]), expected[which]):
                    wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_dropout_in_training_is_drawn_from_the_generator(kind: str) -> None:
    model = tiny("bert", dropout=0.2).train()
    batch = _batch(model)
    forward = packed_runner(model, anatomy(model)) if kind == "packed" else padded_runner(model, 0)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return forward(batch).detach()

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_attention_dropout_alone_changes_packed_training() -> None:
    model = tiny("llama", attention_dropout=0.5).train()
    forward, batch = packed_runner(model, anatomy(model)), _batch(model)
    torch.manual_seed(0)
    assert not torch.equal(forward(batch), forward(batch))
    model.eval()
    assert torch.equal(forward(batch), forward(batch))


def test_recomputation_gives_the_same_gradient() -> None:
    model = tiny("bert").double().train()
    forward, batch = packed_runner(model, anatomy(model)), _batch(model)
    expected = _gradients(model, forward(batch))
    model.activation_checkpointing_enable()
    assert torch.equal(_gradients(model, forward(batch)), expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_through_a_peft_wrapper(family: str) -> None:
    from peft import LoraConfig, TaskType, get_peft_model

    targets = ["query", "value"] if family == "bert" else ["q_proj", "v_proj"]
    torch.manual_seed(0)
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS, target_modules=targets, r=2, lora_dropout=0.0, init_lora_weights=False
    )
    wrapped: Any = get_peft_model(tiny(family), settings).double().eval()
    assert can_pack(wrapped)[0]
    batch = _batch(wrapped)
    packed = packed_runner(wrapped, anatomy(wrapped))(batch)
    gradient = _gradients(wrapped, packed)
    padded = padded_runner(wrapped, 0)(batch)
    assert _relative(packed, padded) <= 1e-10
    assert _relative(gradient, _gradients(wrapped, padded)) <= 1e-10


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_prompt_tuning_stays_padded() -> None:
    from peft import PromptTuningConfig, TaskType, get_peft_model

    settings = PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=2)
    wrapped: Any = get_peft_model(tiny("llama"), settings).eval()
    possible, why = can_pack(wrapped)
    assert not possible
    assert why

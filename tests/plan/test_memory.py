"""Memory on published numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.facts import CalibrationFacts, ModelFacts
from bigbatch.plan.memory import (
    Division,
    MemoryBreakdown,
    activation_bytes_per_token,
    largest_micro_tokens,
    predict_memory,
)

BERT_LARGE = ModelFacts(
    family="bert", parameters=335_000_000, trainable_parameters=335_000_000, parameter_bytes=4 * 335_000_000,
    hidden=1024, blocks=24, vocabulary=30_522, max_positions=512,
)  # fmt: skip


def test_bert_large_with_adamw_is_16_bytes_a_parameter() -> None:
    found = predict_memory(BERT_LARGE, micro_tokens=512, optimizer_state_multiple=2.0)
    assert found.parameters + found.gradients + found.optimizer_state == 16 * 335_000_000


@pytest.mark.parametrize(("multiple", "bytes_each"), [(0.0, 8), (1.0, 12), (2.0, 16)])
def test_bytes_a_parameter(multiple: float, bytes_each: int) -> None:
    found = predict_memory(BERT_LARGE, micro_tokens=512, optimizer_state_multiple=multiple)
    assert found.lasting_bytes - found.process == bytes_each * 335_000_000


def test_activations_of_a_published_layer() -> None:
    """Korthikanti et al. 2022: 34 s b h bytes a layer in 16 bits, twice that in 32 without the masks."""
    assert activation_bytes_per_token(BERT_LARGE, None) == 66 * 1024 * 24


def test_frozen_parameters_have_no_gradient_and_no_state() -> None:
    head = ModelFacts(
        family="bert", parameters=335_000_000, trainable_parameters=3_075, parameter_bytes=4 * 335_000_000,
        hidden=1024, blocks=24, vocabulary=30_522, max_positions=512,
    )  # fmt: skip
    found = predict_memory(head, micro_tokens=512, optimizer_state_multiple=2.0)
    assert found.gradients + found.optimizer_state == 12 * 3_075


def test_measured_numbers_replace_guesses() -> None:
    measured = CalibrationFacts(
        seconds_per_token=1.0, seconds_per_update=1.0, seconds_per_token_forward=1.0,
        activation_bytes_per_token=1000.0, resting_bytes=2_000_000_000, micro_tokens=512,
    )  # fmt: skip
    found = predict_memory(BERT_LARGE, micro_tokens=512, optimizer_state_multiple=2.0, calibration=measured)
    assert found.process + found.parameters == 2_000_000_000
    assert found.activations == 512_000


def test_activations_and_the_steps_temporaries_do_not_meet() -> None:
    sizes = MemoryBreakdown(
        process=1, parameters=10, gradients=10, optimizer_state=20, activations=50, update=70, evaluation=5
    )
    assert sizes.needed_bytes == 41 + 70
    lamb = predict_memory(BERT_LARGE, micro_tokens=512, optimizer_state_multiple=2.0, temporary_multiple=2.0)
    assert lamb.update == 8 * 335_000_000


def test_evaluation_is_never_the_larger_part() -> None:
    found = predict_memory(BERT_LARGE, micro_tokens=4096, optimizer_state_multiple=2.0)
    assert 0 < found.evaluation < found.activations


@given(below=st.integers(2, 100_000), longest=st.integers(1, 2000), room=st.integers(0, 10**9))
def test_what_is_named_fits_and_its_double_does_not(below: int, longest: int, room: int) -> None:
    sizes = predict_memory(BERT_LARGE, micro_tokens=max(below, longest), optimizer_state_multiple=2.0)
    per_token = 10_000.0
    limit = sizes.lasting_bytes + room
    found = largest_micro_tokens(
        sizes, activation_bytes=per_token, below=below, longest=longest, limit_bytes=limit
    )
    if found is not None:
        assert found < below and max(found, longest) * per_token <= room
        assert 2 * found >= below or max(2 * found, longest) * per_token > room
    else:
        assert below <= 64 or max(64, longest) * per_token > room


def test_copies_of_the_weights_count_while_a_micro_batch_runs_and_not_while_weights_move():
    plain = predict_memory(BERT_LARGE, micro_tokens=512, optimizer_state_multiple=2.0)
    low = predict_memory(
        BERT_LARGE, micro_tokens=512, optimizer_state_multiple=2.0, weight_copies_bytes=10**9
    )
    assert low.needed_bytes == plain.needed_bytes + 10**9 and low.lasting_bytes == plain.lasting_bytes
    assert low.parts()["weight_copies"] == 10**9 and "weight_copies" not in plain.parts()
    moving = predict_memory(
        BERT_LARGE,
        micro_tokens=1,
        optimizer_state_multiple=2.0,
        temporary_multiple=2.0,
        weight_copies_bytes=10**9,
    )
    assert moving.needed_bytes == moving.lasting_bytes + moving.update


@pytest.mark.parametrize(
    ("replicas", "outer", "bytes_each"),
    [(0, False, 16), (1, True, 16 + 4 + 8), (2, False, 36), (3, True, 60)],
)
def test_each_replica_has_weights_gradient_and_state_of_its_own(
    replicas: int, outer: bool, bytes_each: int
) -> None:
    """AdamW: 16 bytes a parameter each, 4 for their mean, and 8 for an outer step."""
    found = predict_memory(
        BERT_LARGE, micro_tokens=512, optimizer_state_multiple=2.0, replicas=replicas, outer=outer
    )
    assert found.lasting_bytes - found.process == bytes_each * 335_000_000


# ---------------------------------------------------------------- divided models


def test_ranks_that_share_a_model_keep_parts_and_gather_what_is_at_work() -> None:
    model = replace(BERT_LARGE, blocks_bytes=24 * 50_000_000, largest_block_bytes=50_000_000)
    outside = model.parameter_bytes - model.blocks_bytes
    keys: dict[str, Any] = {"micro_tokens": 512, "optimizer_state_multiple": 2.0}
    whole, four = (
        predict_memory(model, **keys, division=division) for division in (Division(), Division(shard=4))
    )
    for name in ("parameters", "gradients", "optimizer_state"):
        assert getattr(four, name) == pytest.approx(getattr(whole, name) / 4, rel=1e-6)
    assert (four.gathered, four.returned) == (outside + 4 * 50_000_000, outside)
    assert (whole.gathered, whole.returned, whole.loading, four.loading) == (0, 0, 0, 0)
    assert four.needed_bytes < whole.needed_bytes
    on_cpu = predict_memory(model, **keys, division=Division(shard=64, on_cpu=True))
    # So many parts are smaller than the model that each rank reads before it is divided.
    assert on_cpu.needed_bytes == on_cpu.process + model.parameter_bytes


def test_products_in_parts_leave_what_is_outside_the_blocks_whole() -> None:
    model = replace(BERT_LARGE, blocks_bytes=1_200_000_000, largest_block_bytes=50_000_000)
    two = predict_memory(model, micro_tokens=512, optimizer_state_multiple=2.0, division=Division(tensor=2))
    assert two.parameters == pytest.approx(model.parameter_bytes - 600_000_000)
    assert (two.gathered, two.returned) == (0, 0)


# ---------------------------------------------------------------- gradients on their way


@pytest.mark.parametrize(
    ("copies", "bitwise", "buckets"), [(1, False, 0), (2, False, 2), (64, False, 2), (4, True, 1)]
)
def test_gradients_among_ranks_take_a_few_buckets(copies: int, bitwise: bool, buckets: int) -> None:
    keys: dict[str, Any] = {"micro_tokens": 512, "optimizer_state_multiple": 2.0}
    alone = predict_memory(BERT_LARGE, **keys)
    found = predict_memory(BERT_LARGE, **keys, copies=copies, bitwise=bitwise)
    assert found.travelling == buckets * 25 * 2**20
    assert found.needed_bytes - alone.needed_bytes == found.travelling


def test_a_small_model_has_small_buckets() -> None:
    small = replace(BERT_LARGE, trainable_parameters=1_000_000)
    found = predict_memory(small, micro_tokens=512, optimizer_state_multiple=2.0, copies=2)
    assert found.travelling == 2 * 4_000_000

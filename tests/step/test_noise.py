"""A measured update moves the weights as any other, and what it measures is what its parts' gradients say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigbatch.data.random_parts import random_part_of, random_parts
from bigbatch.protocols import Cut
from tests.ranks import Ranks
from tests.step.noise_jobs import built, oracle, updates


@pytest.fixture(scope="module")
def ranks():
    group = Ranks()
    yield group
    group.close()


@pytest.fixture(scope="module")
def alone():
    """Two measured updates in one process."""
    return updates(built())


def close(found, expected, tolerance=1e-8):
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair, rel=tolerance, abs=tolerance * abs(pair[0])), name


def test_it_measures_what_the_gradients_of_the_parts_say(alone):
    close(alone[0]["noise"], oracle(built()))


def test_the_update_is_that_of_any_other_split():
    measured, plain = built(), built()
    for mine, theirs in zip(updates(measured), updates(plain, measured=False), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-10)
        assert mine["norm"] == pytest.approx(theirs["norm"], rel=1e-10)
    for mine, theirs in zip(measured.strategy.parameters, plain.strategy.parameters, strict=True):
        # Adam turns the rounding of gradients that are exactly zero (key biases) into steps of a size of its own.
        apart, size = float((mine - theirs).detach().norm()), float(theirs.detach().norm())
        assert apart <= 1e-10 * size + 2e-3 * (theirs.ndim == 1)


def test_adams_units_come_with_its_second_moment(alone):
    assert "adam" not in alone[0]["noise"]
    assert alone[1]["noise"]["adam"][0] > 0


def test_every_part_is_random_and_follows_from_the_update_alone():
    places = random_parts([3, 3, 2], seed=4, update=9)
    assert sorted(np.concatenate(places).tolist()) == list(range(8))
    assert [each.tolist() for each in places] == [each.tolist() for each in random_parts([3, 3, 2], 4, 9)]
    assert [each.tolist() for each in places] != [each.tolist() for each in random_parts([3, 3, 2], 4, 10)]
    counts = np.zeros((8, 3))
    for update in range(3000):
        for part, chosen in enumerate(random_parts([3, 3, 2], 0, update)):
            counts[chosen, part] += 1
    assert np.abs(counts / 3000 - np.array([3, 3, 2]) / 8).max() < 0.04


def test_parts_have_equal_counts_and_micro_batches_their_budget():
    parts = built(batch=50)
    batch = parts.batches.at(0, 1)
    samples: dict[int, int] = {}
    for piece in parts.strategy.pieces(batch, Cut(128, "packed")):
        number = random_part_of(piece)
        samples[number] = samples.get(number, 0) + len(piece.sample_ids_B)
        assert piece.computed_tokens <= 128 or len(piece.sample_ids_B) == 1
    assert sorted(samples.values()) == [6, 6, 6, 6, 6, 6, 7, 7]


def test_fp32_reads_the_same_numbers():
    close(updates(built(dtype=torch.float32), 1)[0]["noise"], updates(built(), 1)[0]["noise"], 1e-3)


@pytest.mark.world_size(2)
@pytest.mark.parametrize("mesh", [None, {"shard": 2}, {"tensor": 2}], ids=["copies", "shard", "tensor"])
def test_ranks_say_what_one_process_says(ranks, tmp_path, alone, mesh):
    keys = {} if mesh is None else {"plan": {"threads": 1, "mesh": mesh}}
    said = ranks.run("tests.step.noise_jobs:measured", 2, tmp_path, **keys)
    assert said[0] == said[1] or mesh is not None
    for mine, theirs in zip(said[0], alone, strict=True):
        assert mine["norm"] == pytest.approx(theirs["norm"], rel=1e-8)
        close(mine["noise"], theirs["noise"], 1e-6)

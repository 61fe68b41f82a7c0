"""Normal numbers of samples: golden values, their distribution, and what they do not depend on."""

from __future__ import annotations

import math

import numpy as np

from bigbatch.data.noise import normals, uniforms
from bigbatch.data.order import sample_states, splitmix64


def test_they_are_box_and_mullers_of_the_generators_outputs():
    states = np.array([5, 2**63], np.uint64)
    found = normals(states, 3, first=4)
    for row, state in zip(found, states, strict=True):
        first, second, third, fourth = (
            int(each >> np.uint64(11)) / 2**53 for each in splitmix64(int(state), 4, 4)
        )
        radius = math.sqrt(-2 * math.log(1 - first))
        wanted = [radius * math.cos(2 * math.pi * second), radius * math.sin(2 * math.pi * second)]
        wanted.append(math.sqrt(-2 * math.log(1 - third)) * math.cos(2 * math.pi * fourth))
        np.testing.assert_allclose(row, wanted, rtol=1e-12)


def test_each_sample_has_its_own_whoever_is_beside_it():
    states = sample_states(0, 1, np.zeros(50, np.int64), np.arange(50))
    whole = normals(states, 20)
    assert np.array_equal(whole[7:9], normals(states[7:9], 20))
    assert len(np.unique(whole[:, 0])) == 50
    assert np.array_equal(uniforms(states, 20)[:, 5:], uniforms(states, 15, first=5))


def test_they_are_normal():
    states = sample_states(3, 1, np.zeros(400, np.int64), np.arange(400))
    found = normals(states, 250).reshape(-1)
    assert abs(found.mean()) < 0.015 and abs(found.var() - 1) < 0.02
    assert abs((found**4).mean() - 3) < 0.1
    assert abs(np.mean(np.abs(found) < 1) - 0.6827) < 0.006

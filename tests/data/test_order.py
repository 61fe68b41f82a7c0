"""The order is arithmetic: golden values hold it still, properties say what it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.data.order import SampleOrder, epoch_order, mixed, mixed_with, splitmix64, splitmix64_at


def test_splitmix64_gives_the_published_outputs():
    # The reference C code's first outputs for the seeds 0 and 1234567.
    assert splitmix64(0, count=3).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(1234567, count=3).tolist() == expected
    assert splitmix64(1234567, first=2).tolist() == expected[2:]


def test_golden_orders():
    """These never change: a run resumed with another version continues the same stream."""
    assert epoch_order(0, 0, 10).tolist() == [0, 7, 8, 2, 5, 9, 4, 6, 3, 1]
    assert epoch_order(0, 1, 10).tolist() == [9, 4, 1, 7, 5, 8, 0, 6, 3, 2]
    assert epoch_order(1, 0, 10).tolist() == [9, 8, 7, 4, 2, 0, 3, 6, 5, 1]
    assert epoch_order(-1, 0, 5).tolist() == [1, 3, 2, 4, 0]
    assert mixed(0, 0) == 12035550249420947055


@given(seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 10**6), samples=st.integers(0, 300))
def test_an_epoch_visits_every_sample_once(seed: int, epoch: int, samples: int):
    order = epoch_order(seed, epoch, samples)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(samples))


def test_epochs_and_seeds_differ():
    orders = [epoch_order(seed, epoch, 50).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


@given(
    samples=st.integers(1, 20),
    seed=st.integers(0, 5),
    cuts=st.lists(st.integers(0, 45), min_size=1, max_size=8),
)
def test_the_stream_is_the_epochs_one_behind_the_other(samples: int, seed: int, cuts: list[int]):
    stream = SampleOrder(samples, seed)
    epochs = np.concatenate([epoch_order(seed, epoch, samples) for epoch in range(sum(cuts) // samples + 1)])
    position, read = 0, []
    for count in cuts:
        read += stream.ids(position, count).tolist()
        position += count
    assert read == epochs[: sum(cuts)].tolist()


def test_the_stream_starts_anywhere_and_keeps_two_epochs():
    stream = SampleOrder(7, seed=3)
    far = 7 * 10**12 + 5
    assert stream.ids(far, 4).tolist() == [
        *epoch_order(3, 10**12, 7)[5:].tolist(),
        *epoch_order(3, 10**12 + 1, 7)[:2].tolist(),
    ]
    stream.ids(0, 50)
    assert len(stream._orders) == 2


def test_many_generators_at_once_give_what_each_gives_alone():
    states = np.array([0, 1234567, 2**64 - 1, 42], np.uint64)
    numbers = np.array([0, 2, 5, 10**9])
    expected = [
        int(splitmix64(int(state), first=int(n))[0]) for state, n in zip(states, numbers, strict=True)
    ]
    assert splitmix64_at(states, numbers).tolist() == expected
    start = np.full(3, mixed(7, 8), np.uint64)
    assert mixed_with(start, np.array([0, 1, 2**40])).tolist() == [mixed(7, 8, n) for n in (0, 1, 2**40)]

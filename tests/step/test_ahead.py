from __future__ import annotations

import threading
import time
import traceback

import numpy as np
import pytest

from bigbatch.data.batches import Batches
from bigbatch.data.packs import micro_batches
from bigbatch.samples import Table
from bigbatch.step.ahead import Ahead, Supply


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bigbatch-ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threads()
    yield
    assert threads() == before


def test_the_order_is_that_of_the_source() -> None:
    ahead = Ahead(range(1000), lead=3)
    assert list(ahead) == list(range(1000))
    assert list(ahead) == []
    ahead.close()


def test_the_lead_is_bounded_and_is_made_while_nobody_asks() -> None:
    made: list[int] = []
    room = threading.Event()

    def source():
        for number in range(100):
            made.append(number)
            if number == 4:
                room.set()
            yield number

    ahead = Ahead(source(), lead=4)
    assert room.wait(10)  # the fifth is made, and waits for room
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]
    assert next(ahead) == 0
    ahead.close()
    assert len(made) <= 6


def test_an_error_comes_at_its_place_with_its_traceback() -> None:
    def where_it_happens():
        raise ValueError("row 7 is broken")

    def source():
        yield 1
        yield 2
        where_it_happens()

    ahead = Ahead(source(), lead=8)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="row 7") as caught:
        next(ahead)
    assert "where_it_happens" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()


def test_closing_ends_a_thread_that_waits_for_room() -> None:
    ahead = Ahead(iter(int, 1), lead=2)  # zeros without end
    assert next(ahead) == 0
    ahead.close()
    ahead.close()
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.fixture(scope="module")
def table() -> Table:
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 40, 150)
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Table.of_tokens(
        ids=generator.integers(3, 100, offsets[-1]).astype(np.int32),
        token_offsets=offsets,
        segments=None,
        reads=np.zeros(150, np.int32),
        unit_offsets=np.arange(151),
        values=generator.integers(0, 3, 150),
        weights=np.ones(150, np.float32),
    )


def supply(table, lead, *, tokens=None, last_update=9, cut=None):
    def own_cut(batch, micro_tokens):
        return micro_batches(batch, micro_tokens=micro_tokens, packing="packed")

    batches = Batches(table, seed=3, samples=None if tokens else 64, tokens=tokens)
    return Supply(batches, cut or own_cut, last_update=last_update, lead=lead)


def seen(batch, pieces):
    """Everything of an update that can be compared."""
    return (
        batch.update,
        batch.first_position,
        batch.sample_ids_B.tolist(),
        [(piece.index, piece.sample_ids_B.tolist(), piece.ids_T.tolist()) for piece in pieces],
    )


@pytest.mark.parametrize("tokens", [None, 900])
def test_cutting_ahead_gives_the_same_updates(table, tokens) -> None:
    plain, ahead = supply(table, 0, tokens=tokens), supply(table, 5, tokens=tokens)
    position = 0
    for update in range(1, 10):  # over the ends of several epochs
        expected = seen(*plain.at(position, update, 200))
        assert seen(*ahead.at(position, update, 200)) == expected
        position += len(expected[2])
    ahead.close()


def test_what_was_left_half_way_is_cut_anew_and_smaller(table) -> None:
    plain, ahead = supply(table, 0), supply(table, 5)
    _, pieces = ahead.at(0, 1, 400)
    next(pieces)  # runs out of memory here
    assert seen(*ahead.at(0, 1, 200)) == seen(*plain.at(0, 1, 200))
    assert seen(*ahead.at(64, 2, 200)) == seen(*plain.at(64, 2, 200))
    ahead.close()


def test_nothing_is_cut_behind_the_last_update(table) -> None:
    cut_updates = []

    def cut(batch, micro_tokens):
        cut_updates.append(batch.update)
        return micro_batches(batch, micro_tokens=micro_tokens, packing="packed")

    ahead = supply(table, 100, last_update=2, cut=cut)
    for position, update in ((0, 1), (64, 2)):
        _, pieces = ahead.at(position, update, 300)
        assert len(list(pieces)) > 1
    ahead.close()
    assert cut_updates == [1, 2]


def test_the_next_update_is_cut_while_this_one_is_computed(table) -> None:
    second = threading.Event()

    def cut(batch, micro_tokens):
        if batch.update == 2:
            second.set()
        return micro_batches(batch, micro_tokens=micro_tokens, packing="packed")

    ahead = supply(table, 100, cut=cut)
    _, pieces = ahead.at(0, 1, 300)
    assert second.wait(10)  # without a single piece of update 1 taken
    assert len(list(pieces)) > 1
    ahead.close()


def test_an_error_of_cutting_is_raised_by_its_update(table) -> None:
    def cut(batch, micro_tokens):
        if batch.update == 2:
            raise OSError("the disk is gone")
        return micro_batches(batch, micro_tokens=micro_tokens, packing="packed")

    ahead = supply(table, 100, cut=cut)
    _, pieces = ahead.at(0, 1, 300)
    assert len(list(pieces)) > 1
    batch, pieces = ahead.at(64, 2, 300)
    assert batch.update == 2
    with pytest.raises(OSError, match="disk"):
        next(pieces)
    ahead.close()

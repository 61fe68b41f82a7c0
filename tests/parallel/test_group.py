"""Several processes that hold the whole model: exact, whatever the split, and together when something goes wrong."""

from __future__ import annotations

import pytest

from bigbatch.parallel.single import SingleWorld
from tests.parallel import jobs

JOBS = "tests.parallel.jobs:"


@pytest.mark.world_size(4)
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_twenty_updates_equal_the_whole_batch(ranks, tmp_path, size, dtype, packing):
    found = ranks.run(
        JOBS + "equality", size, tmp_path, family="bert", dtype=dtype, micro_tokens=256, packing=packing
    )
    assert found[0]["error"] <= found[0]["bound"]
    assert all(min(rank["micro_batches"]) > 0 for rank in found)


@pytest.mark.world_size(3)
@pytest.mark.parametrize(
    "optimizer", [{"name": "lamb", "lr": 1e-3, "weight_decay": 0.01}, {"name": "sgd", "lr": 0.1}]
)
def test_the_other_optimizers_too(ranks, tmp_path, optimizer):
    given = {"family": "bert", "dtype": "fp64", "micro_tokens": 256, "packing": "packed", "updates": 6}
    (first, *_) = ranks.run(JOBS + "norms", 3, tmp_path, **given, optimizer=optimizer)
    (alone, *_) = ranks.run(JOBS + "norms", 1, tmp_path, **given, optimizer=optimizer)
    assert first["norms"] == pytest.approx(alone["norms"], rel=1e-10)
    assert first["weights"] == pytest.approx(alone["weights"], rel=1e-10)


@pytest.mark.world_size(4)
def test_ranks_without_work_change_nothing(ranks, tmp_path):
    """Two samples an update on four ranks: two of them have none."""
    found = ranks.run(
        JOBS + "equality", 4, tmp_path, family="bert", dtype="fp64", micro_tokens=256, packing="packed", updates=5,
        batch=2,
    )  # fmt: skip
    assert sorted(rank["micro_batches"][0] for rank in found) == [0, 0, 1, 1]


@pytest.mark.world_size(4)
@pytest.mark.parametrize("rows", [3, 61])
def test_an_evaluation_has_the_same_bits_on_any_number_of_ranks(ranks, tmp_path, rows):
    alone = jobs.evaluated(SingleWorld(), rows=max(rows, 8)) if rows >= 8 else None
    found = [ranks.run(JOBS + "evaluated", size, tmp_path, rows=max(rows, 8)) for size in (1, 2, 3, 4)]
    everyone = [figures for group in found for figures in group]
    assert all(figures == everyone[0] for figures in everyone)
    assert alone is None or alone == everyone[0]


@pytest.mark.world_size(3)
def test_what_travels(ranks, tmp_path):
    found = ranks.run(JOBS + "words", 3, tmp_path)
    for rank, words in enumerate(found):
        assert words["rank"] == rank
        assert words["gather"] == [{"who": other, "é": [None, 1.5]} for other in range(3)]
        assert words["share"] == {"leader": 0}
        assert words["counts"] == {"a": 0.30000000000000004, "b": 3.0}
        assert words["rows"] == [[], [[1.0, 2.0]], [[2.0, 3.0], [4.0, 5.0]]]


@pytest.mark.world_size(3)
@pytest.mark.parametrize(
    ("kind", "own", "others", "text"),
    [
        ("memory", "OutOfMemory", "OutOfMemory", "rank 1: no room"),
        ("leave", "Leaving", "Leaving", "rank 1: told to"),
        ("other", "ValueError", "PeerFailed", "rank 1: ValueError: bad"),
    ],
)
def test_all_leave_together(ranks, tmp_path, kind, own, others, text):
    found = ranks.run(JOBS + "trouble", 3, tmp_path, kind=kind, rank=1)
    assert [rank["raised"] for rank in found] == [others, own, others]
    assert found[0]["text"] == found[2]["text"] == text
    if kind == "leave":
        assert [rank["signal"] for rank in found] == [15, 15, 15]


@pytest.mark.world_size(2)
def test_a_group_of_the_callers_is_left_as_often_as_one_likes_and_stays_open(ranks, tmp_path):
    for found in ranks.run(JOBS + "guest", 2, tmp_path):
        assert found == {"sum": [2.0, 2.0], "open": [[1.0], [1.0]]}


@pytest.mark.world_size(2)
def test_what_a_rank_that_left_has_written_lets_nobody_out_of_the_next_run(ranks, tmp_path):
    first, second = ranks.run(JOBS + "openings", 2, tmp_path)
    assert first == second and first[0] < first[1]


@pytest.mark.world_size(2)
def test_every_group_waits_as_long_as_the_recipe_says(ranks, tmp_path):
    assert ranks.run(JOBS + "patient", 2, tmp_path) == [[77.0] * 3] * 2


@pytest.mark.world_size(2)
def test_memory_of_a_gradient_is_never_used_for_the_next_ones(ranks, tmp_path):
    expected = [[2.0 * number] * 2 for number in range(16)] + [[0.0, 2.0, 4.0, 6.0]]
    assert ranks.run(JOBS + "views", 2, tmp_path) == [expected] * 2

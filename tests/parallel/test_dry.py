"""Who hears what in an imagined group, and what each collective weighs."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from bigbatch.errors import UsageError
from bigbatch.parallel.dry import EVERYBODY, arrangement, axis_names, group_of_one
from bigbatch.parallel.mesh import MeshShape, meshed
from bigbatch.probe.dry import Shapes


def sent(work) -> list[tuple[str, int, int]]:
    shapes = Shapes()
    with shapes.watching():
        work()
    return [(one.kind, one.ranks, one.payload_bytes) for one in shapes.sent]


def test_the_others_say_what_this_rank_says():
    with group_of_one(5) as world:
        assert (world.rank, world.size) == (0, 5)
        assert world.exchange([1.5, 2.0]) == [[1.5, 2.0]] * 5
        assert world.gather({"a": [1, None]}) == [{"a": [1, None]}] * 5
        assert world.share({"b": 2}) == {"b": 2}
        assert world.sum_counts({"n": 3.0}) == {"n": 15.0}
        with pytest.raises(UsageError, match="without torchrun"), group_of_one(2):
            pass
    assert not dist.is_initialized()


# torch 2.13 has other names for what DTensors send through these.
@pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning")
def test_what_collectives_weigh():
    """fp32: the whole of what is summed, or of what everybody has in the end."""
    with group_of_one(4):
        mine, whole = torch.zeros(10), torch.zeros(40)
        parts = [torch.zeros(10) for _ in range(4)]
        assert sent(lambda: dist.all_reduce(mine)) == [("all_reduce", 4, 40)]
        assert sent(lambda: dist.all_reduce(whole[:10])) == [
            ("all_reduce", 4, 40)
        ]  # not what it is a part of
        assert sent(lambda: dist.broadcast(mine, 0)) == [("broadcast", 4, 40)]
        assert sent(lambda: dist.all_gather(parts, mine)) == [("all_gather", 4, 160)]
        assert sent(lambda: dist.scatter(mine, parts)) == [("scatter", 4, 160)]
        assert sent(lambda: dist.all_to_all_single(torch.zeros(40), whole)) == [("all_to_all", 4, 160)]
        assert sent(lambda: functional.all_reduce(mine, "sum", dist.group.WORLD).sum()) == [
            ("all_reduce", 4, 40)
        ]
        gathered = lambda: functional.all_gather_tensor(mine, 0, dist.group.WORLD).sum()  # noqa: E731
        assert sent(gathered) == [("all_gather", 4, 160)]
        scattered = lambda: functional.reduce_scatter_tensor(whole, "sum", 0, dist.group.WORLD).sum()  # noqa: E731
        assert sent(scattered) == [("reduce_scatter", 4, 160)]
        assert sent(lambda: mine + 1) == [] and sent(dist.barrier) == []


def test_an_unknown_collective_is_not_passed_over():
    with group_of_one(2), pytest.raises(NotImplementedError, match="does not know the collective"):
        sent(lambda: dist.reduce(torch.zeros(2), 0))


def test_groups_are_named_after_their_axes():
    with group_of_one(8) as world:
        assert (axis_names(world), arrangement(world)) == ({}, "replicate 8")
        mesh = meshed(world, MeshShape(replicate=2, shard=4), "cpu")
        assert sorted(axis_names(mesh).values()) == ["replicate", "shard"]
        assert EVERYBODY not in axis_names(mesh).values()
        assert arrangement(mesh) == "replicate 2 x shard 4 x tensor 1"

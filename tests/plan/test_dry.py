"""A dry run in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigbatch.plan.dry import DryRun, Peak, Traffic, dry_lines, traffic_lines

MIB = 2**20
SUM = Traffic(collective="all_reduce", axis="replicate", ranks=4, calls=2, payload_bytes=8 * MIB)
GATHER = Traffic(collective="all_gather", axis="shard", ranks=8, calls=13, payload_bytes=16 * MIB)
PEAK = Peak(total_bytes=10 * MIB, model_bytes=2 * MIB, lasting_bytes=4 * MIB, phase="forward and backward")
FOUND = DryRun(
    ranks=32, arrangement="replicate 4 x shard 8 x tensor 1", data_ranks=32, pieces=64, micro_batches=2,
    micro_tokens=1024, peak=PEAK, update=(SUM, GATHER),
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "ranks", "sent"),
    [
        ("all_reduce", 2, 100),  # a half to be summed, a half back
        ("all_reduce", 4, 150),
        ("all_gather", 4, 75),
        ("reduce_scatter", 4, 75),
        ("all_to_all", 2, 50),
        ("all_gather", 1, 0),
    ],
)
def test_a_ring(kind, ranks, sent):
    assert Traffic(collective=kind, axis="", ranks=ranks, calls=1, payload_bytes=100).sent_bytes == sent


def test_the_table_begins_with_the_largest_and_ends_with_the_sum():
    head, *rows, last = traffic_lines(FOUND.update)
    assert head.split() == ["collective", "axis", "ranks", "calls", "payload", "sent", "by", "this", "rank"]
    assert [row.split()[:4] for row in rows] == [
        ["all_gather", "shard", "8", "13"], ["all_reduce", "replicate", "4", "2"],
    ]  # fmt: skip
    assert last.split() == ["together", "15", "24.0", "MiB", "26.0", "MiB"]
    assert len({len(line) for line in (head, *rows, last)}) == 1


def test_what_a_person_reads():
    first, work, memory, *rest = dry_lines(replace(FOUND, notes=("so it is",)))
    assert first.startswith("dry run: rank 0 of 32 (replicate 4 x shard 8 x tensor 1)")
    assert "2 micro-batches an update on this rank" in work and "nothing to do" not in work
    assert "10.0 MiB of tensors at most" in memory and "gathered parameters 4.0 MiB" in memory
    assert "an update:" in rest and rest[-1] == "note: so it is"


def test_idle_ranks_are_counted():
    [line] = [line for line in dry_lines(replace(FOUND, pieces=20, micro_batches=1)) if "work" in line]
    assert "1 micro-batch an update" in line and "12 of them have nothing to do" in line


def test_meetings_have_a_table_of_their_own():
    lines = dry_lines(replace(FOUND, pieces=0, meeting=(SUM,), period="every 8 updates"))
    assert "an update in which replicas do not meet:" in lines
    assert "an update in which replicas meet (every 8 updates):" in lines

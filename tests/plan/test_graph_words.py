from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bigbatch.plan.graph import Cost, Finding, GraphAnalysis
from bigbatch.plan.graph_words import SHOWN, graph_lines, notable, summary
from tests.plan.graphs import GIGA, graph


def text(found: GraphAnalysis) -> str:
    return "\n".join(graph_lines(found))


def test_the_summary_says_what_and_how_much() -> None:
    first, second, third = summary(graph())
    assert first == "one micro-batch, packed: 28 samples, 986 real tokens; float32 on cpu"
    assert second.startswith("36.0 GFLOP (12.0 GFLOP forward, 24.0 GFLOP backward); 120.0 MiB read")
    assert third.startswith("the plain way (padded, every position): 1,008 tokens, 40.0 GFLOP")
    assert third.endswith("10.0 % fewer FLOPs this way")
    assert len(summary(graph(plain=None))) == 2
    assert "and 14 of padding" in summary(graph(computed_tokens=1000))[0]


def test_the_table_has_a_line_for_each_part_in_order() -> None:
    lines = graph_lines(graph())
    names = [line.split("  ")[0] for line in lines]
    places = [names.index(name) for name in ("part", "embeddings", "block 1", "block 2", "classifier")]
    assert places == sorted(places)
    block = lines[places[3]]
    assert block.endswith("10.8 GFLOP") and "50.0 %" in block and "0.360" in block
    assert not lines[places[2]].endswith("10.8 GFLOP")


def test_recomputation_is_told() -> None:
    one = graph().parts[1]
    again = replace(one, cost=one.cost + Cost(recompute_flops=3 * GIGA))
    assert "3.0 GFLOP recomputed" in summary(graph(parts=(again,)))[1]


def test_an_accelerator_has_no_column_of_seconds() -> None:
    parts = tuple(replace(one, cost=replace(one.cost, seconds=None)) for one in graph().parts)
    found = text(graph(parts=parts))
    assert "seconds" not in found
    assert "seconds were measured once, under observation" in text(graph())


def test_findings_worth_a_line_and_how_many_are_not() -> None:
    found = text(graph())
    assert "positions nobody reads: 90.0 % of the positions are never read (200 ms)" in found
    assert "waits for the GPU: item in block 1" in found, "waits are shown however small"
    assert "one tiny mask again" not in found and "and 1 smaller finding" in found
    assert [finding.kind for finding in notable(graph())] == ["unread", "copy", "sync"]
    many = tuple(Finding(kind="sync", where=f"{n}", what=f"wait {n}") for n in range(SHOWN + 3))
    assert "and 3 smaller findings" in text(graph(findings=many))
    assert "nothing is computed in vain" in text(graph(findings=()))


def test_padding_of_every_way_and_the_notes() -> None:
    found = text(graph())
    assert "39.5 % in random batches of 32, 9.3 % in batches of 32 sorted by length" in found
    assert "8.3 % in micro-batches of the plan's size" in found and "none packed" in found
    assert "note: 2 calls of own_kernel have no FLOP formula" in found


@pytest.mark.parametrize("changes", [{}, {"plain": None, "padding": None, "findings": (), "notes": ()}])
def test_the_record_survives_json(changes) -> None:
    found = graph(**changes)
    assert GraphAnalysis.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_graph_without_products() -> None:
    parts = tuple(
        replace(one, cost=Cost(read_bytes=5, operations=1), unread_flops=0) for one in graph().parts
    )
    assert "0 FLOP" in text(graph(parts=parts, plain=None))

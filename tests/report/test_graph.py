from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bigbatch.report.graph import draw_graph, graph_told, section_of, write_graph_page
from bigbatch.report.html import write_report
from tests.plan.graphs import graph, module, part
from tests.report.fake_run import write_run

EVIL = '<script>alert(1)</script>&"\x1b[2J\u202e'


def rects(drawing: str) -> list[tuple[float, str]]:
    """(width, attributes) of every coloured bar."""
    found = re.findall(r"<rect ([^>]*)>", drawing)
    bars = [one for one in found if "fill tone" in one]
    return [(float(re.search(r'width="([\d.]+)"', one)[1]), one) for one in bars]  # type: ignore[index]


def test_bars_are_as_long_as_their_flops_and_pale_where_nobody_reads() -> None:
    drawing = str(draw_graph(graph(), width=1014))
    widths = rects(drawing)
    key, dense, second_key, read, unread, head = [width for width, _ in widths]
    assert key == pytest.approx(second_key) and key == pytest.approx(1000 * 6 / 18 - 1, abs=0.1)
    assert dense == pytest.approx(1000 * 12 / 18 - 1, abs=0.1)
    assert read == pytest.approx(1000 * 12 / 18 * 0.1 - 1, abs=0.1)
    assert unread == pytest.approx(1000 * 12 / 18 * 0.9 - 1, abs=0.1)
    assert head < 1
    assert ["fill-opacity" in words for _, words in widths] == [False, False, False, False, True, False]
    assert "90\xa0% of its positions never read" in drawing.replace("90.0", "90")
    assert drawing.count("<polygon") == 3, "an arrow from each part to the next"


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    evil = part(EVIL, module(EVIL, 1.0, kind=EVIL, unread_fraction=0.5))
    findings = tuple(replace(one, what=EVIL, where=EVIL) for one in graph().findings)
    found = graph(parts=(evil,), findings=findings, notes=(EVIL,))
    page = write_graph_page(found, tmp_path / "g.html", EVIL).read_text(encoding="utf-8")
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert re.findall(r"(?:src|href)=[\"'](?!#)", page) == [], "nothing is loaded from anywhere"


def test_the_page_says_what_the_console_says(tmp_path: Path) -> None:
    path = tmp_path / "g.html"
    lines = graph_told(graph(), path, "tweets")
    assert lines[-1] == str(path)
    page = path.read_text(encoding="utf-8")
    for words in (
        "36.0 GFLOP",
        "90.0 % of the positions are never read",
        "block 2",
        "classifier",
        "own_kernel",
    ):
        assert words in page and any(words in line for line in lines), words
    assert "prefers-color-scheme: dark" in page
    assert graph_told(graph(), True, "tweets") == lines[:-1]


def test_the_report_has_a_section_where_there_is_an_analysis(tmp_path: Path) -> None:
    without = write_report(write_run(tmp_path / "without")).read_text(encoding="utf-8")
    assert 'id="graph"' not in without
    folder = write_run(tmp_path / "with")
    (folder / "graph.json").write_text(json.dumps(graph().to_json()))
    text = write_report(folder).read_text(encoding="utf-8")
    assert 'id="graph"' in text and 'href="#graph"' in text
    assert "90.0 % of the positions are never read" in text


@pytest.mark.parametrize(
    "content", [{}, {"version": 7}, {"version": 1}, {"version": 1, "parts": 3, "padding": None}]
)
def test_an_analysis_that_cannot_be_read_is_left_out(content) -> None:
    assert section_of(content) is None


def test_a_damaged_part_is_left_out_too() -> None:
    content = graph().to_json()
    content["parts"][0]["cost"]["forward_flops"] = "many"
    assert section_of(json.loads(json.dumps(content))) is None
    assert section_of(json.loads(json.dumps(graph().to_json()))) is not None

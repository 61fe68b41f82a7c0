from __future__ import annotations

from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from bigbatch.report.shapes import Bar, bars, heat_map, meter, reliability

LABEL = "<img src=x onerror=alert(1)>"


def nodes(markup: Markup, name: str) -> list[ElementTree.Element]:
    return [node for node in ElementTree.fromstring(str(markup)).iter() if node.tag == name]


@pytest.mark.parametrize(("fraction", "width"), [(0.5, "50.0%"), (-1, "0.0%"), (3, "100.0%")])
def test_a_meter_is_filled_to_its_fraction(fraction: float, width: str) -> None:
    assert nodes(meter(fraction), "rect")[1].attrib["width"] == width


def test_bars_share_one_scale() -> None:
    rows = [
        Bar(name="random", parts=[("real", 50, 1), ("padding", 50, 2)], note="100"),
        Bar(name=LABEL, parts=[("real", 50, 1)], note="50"),
    ]
    markup = bars(rows, title="t", description="d", width=200)
    rects = nodes(markup, "rect")
    assert [(rect.attrib["x"], rect.attrib["width"]) for rect in rects] == [
        ("0", "100"),
        ("100", "100"),
        ("0", "100"),
    ]
    assert LABEL in [node.text for node in nodes(markup, "text")]


def test_a_note_that_does_not_fit_goes_below_its_bar() -> None:
    row = [Bar(name="n" * 30, parts=[("real", 1, 1)], note="m" * 30)]
    wide = nodes(bars(row, title="t", description="d", width=900), "text")
    narrow = nodes(bars(row, title="t", description="d", width=300), "text")
    assert wide[0].attrib["y"] == wide[1].attrib["y"]
    assert float(narrow[1].attrib["y"]) > float(narrow[0].attrib["y"]) + 30


@pytest.mark.parametrize("width", [310, 520])
def test_a_heat_map_has_a_cell_for_every_pair(width: int) -> None:
    labels = ["negative", LABEL, "a label that is far too long to be shown in full"]
    markup = heat_map([[8, 1, 1], [0, 5, 0], [0, 0, 0]], labels, title="t", description="d", width=width)
    cells = nodes(markup, "rect")
    assert len(cells) == 9
    assert max(float(cell.attrib["x"]) + float(cell.attrib["width"]) for cell in cells) <= width
    words = [node.text or "" for node in nodes(markup, "title")]
    assert f"negative predicted as {LABEL}: 1 (10\xa0%)" in words
    shades = [float(cell.attrib["fill-opacity"]) for cell in cells]
    assert shades[0] > shades[1] == shades[2] > shades[3] == shades[6]


def test_a_heat_map_of_many_classes_has_no_numbers() -> None:
    labels = [str(number) for number in range(30)]
    counts = [[9 if row == column else 0 for column in range(30)] for row in range(30)]
    markup = heat_map(counts, labels, title="t", description="d", width=520)
    assert not [node for node in nodes(markup, "text") if "count" in node.attrib["class"]]


def test_a_reliability_diagram_puts_a_perfect_bin_on_the_diagonal() -> None:
    markup = reliability([(0.25, 0.25, 10), (0.75, 0.75, 40)], title="t", description="d", width=300)
    (line,) = [node for node in nodes(markup, "line") if node.attrib["class"] == "mark"]
    x1, x2, y1, y2 = (float(line.attrib[key]) for key in ("x1", "x2", "y1", "y2"))
    for dot, part in zip(nodes(markup, "circle"), (0.25, 0.75), strict=True):
        assert float(dot.attrib["cx"]) == pytest.approx(x1 + part * (x2 - x1), abs=0.1)
        assert float(dot.attrib["cy"]) == pytest.approx(y1 + part * (y2 - y1), abs=0.1)

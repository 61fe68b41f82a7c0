from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from bigbatch.report.svg import Chart, Mark, Series, line_chart, tag

LABEL = "<img src=x onerror=alert(1)>\"'&\x1b[31m</script>"


def parsed(markup: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup))


def drawn(markup: Markup, name: str) -> list[ElementTree.Element]:
    return [node for node in parsed(markup).iter() if node.tag == name]


def chart(points: list[tuple[float, float]], **changes: object) -> Chart:
    settings = {"title": "Loss", "description": "Falls.", "x_label": "samples", "y_label": "nats"}
    return Chart(**{**settings, "series": [Series(name="training", points=points)], **changes})  # type: ignore[arg-type]


def test_tag_escapes_text_and_attributes() -> None:
    node = parsed(tag("text", LABEL, Markup("<b>kept</b>"), class_=LABEL, text_anchor="end", x=None))
    assert node.attrib == {"class": LABEL.replace("\x1b", "\\x1b"), "text-anchor": "end"}
    assert node.text == LABEL.replace("\x1b", "\\x1b")
    assert [child.text for child in node] == ["kept"]


def test_a_chart_has_a_title_and_a_description_for_screen_readers() -> None:
    root = parsed(line_chart(chart([(0, 1), (1, 2)], title=LABEL), width=300, height=150))
    title, desc = root[0], root[1]
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {desc.attrib['id']}"
    assert (title.text, desc.text) == (LABEL.replace("\x1b", "\\x1b"), "Falls.")


finite = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(0, 1e9), finite), max_size=40),
    width=st.sampled_from([310, 1040]),
    zero=st.booleans(),
    log=st.booleans(),
)
def test_everything_is_drawn_inside_the_picture(
    points: list[tuple[float, float]], width: int, zero: bool, log: bool
) -> None:
    markup = line_chart(chart(sorted(points), zero=zero, log=log), width=width, height=190)
    root = parsed(markup)
    _, _, right, bottom = map(float, root.attrib["viewBox"].split())
    assert right == width
    for node in root.iter():
        for key, limit in (
            ("x", right),
            ("cx", right),
            ("x1", right),
            ("x2", right),
            ("y", bottom),
            ("cy", bottom),
        ):
            if key in node.attrib:
                assert -0.2 <= float(node.attrib[key]) <= limit + 0.2, (node.tag, node.attrib)
        for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", node.attrib.get("d", "")):
            assert -0.2 <= float(x) <= right + 0.2 and -0.2 <= float(y) <= bottom + 0.2


def test_larger_values_are_drawn_higher_and_later_ones_further_right() -> None:
    dots = drawn(line_chart(chart([(0, 1), (10, 3), (20, 2)], series=[
        Series(name="a", points=[(0, 1), (10, 3), (20, 2)], style="dots")]), width=300, height=150), "circle")  # fmt: skip
    dots = [dot for dot in dots if len(dot)]  # those with a text on hovering are data, the others the legend
    xs = [float(dot.attrib["cx"]) for dot in dots]
    ys = [float(dot.attrib["cy"]) for dot in dots]
    assert xs == sorted(xs)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[1] < ys[2] < ys[0]
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.2)


def test_the_legend_names_every_curve_but_not_the_faint_ones() -> None:
    series = [
        Series(name="raw", points=[(0, 1), (1, 2)], style="faint"),
        Series(name="mean", points=[(0, 1), (1, 2)]),
        Series(name=LABEL, points=[(0, 2), (1, 1)], tone=2, style="dashed"),
    ]
    texts = [
        node.text or "" for node in drawn(line_chart(chart([], series=series), width=900, height=150), "text")
    ]
    assert "mean" in texts and "raw" not in texts
    assert LABEL.replace("\x1b", "\\x1b") in texts


def test_marks_say_what_happened() -> None:
    markup = line_chart(chart([(0, 1), (9, 2)], marks=[Mark(x=4, text=LABEL)]), width=300, height=150)
    assert LABEL.replace("\x1b", "\\x1b") in [node.text for node in drawn(markup, "title")]


def test_a_chart_without_points_says_so() -> None:
    texts = [node.text for node in drawn(line_chart(chart([]), width=300, height=150), "text")]
    assert texts == ["nothing recorded yet"]


def test_a_logarithmic_chart_leaves_out_what_is_not_positive() -> None:
    markup = line_chart(chart([(0, 0.0), (1, 1.0), (2, 10.0), (3, 100.0)], log=True), width=300, height=150)
    (path,) = [node.attrib["d"] for node in drawn(markup, "path")]
    assert path.count("L") == 2


def test_a_logarithmic_axis_says_that_it_is_one() -> None:
    for log, x_log in ((True, False), (False, True), (False, False)):
        markup = line_chart(chart([(1, 1.0), (10, 100.0)], log=log, x_log=x_log), width=300, height=150)
        words = [node.text or "" for node in drawn(markup, "text")]
        assert sum("(log scale)" in text for text in words) == log + x_log

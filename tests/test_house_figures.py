"""What tools/house.py counts, on small houses whose figures are known."""

from __future__ import annotations

import json

import pytest

from tools.house import (
    PATH_BEGINS,
    PATH_ENDS,
    Figure,
    House,
    Step,
    circles,
    complaints,
    complaints_of_rooms,
    figures,
    lines_of_code,
    mentions_of_any,
    path_figures,
    path_text,
    read_bounds,
    upward_arrows,
    with_path,
)

SETTINGS = """
[[tool.importlinter.contracts]]
id = "floors"
layers = ["(cli)", "(run)", "(left) | (right)", "units"]
"""


@pytest.fixture
def build(tmp_path):
    def build(**files: str) -> House:
        (tmp_path / "pyproject.toml").write_text(SETTINGS)
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_one.py").write_text("\n" * 10)
        for name, text in files.items():
            path = tmp_path / "src" / "bigbatch" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return House(tmp_path)

    return build


def test_an_arrow_that_goes_up_or_sideways_counts_even_for_types_or_inside_a_function(build):
    house = build(
        run__loop="from bigbatch.left.one import x\nfrom bigbatch import units\n",
        left__one="if TYPE_CHECKING:\n    from bigbatch.run.loop import y\n",
        right__two="def f():\n    import bigbatch.left.one\n",
        units="from bigbatch.left import one\n",
    )
    assert upward_arrows(house) == [
        "left/one.py -> run/loop.py",
        "right/two.py -> left/one.py",
        "units.py -> left/one.py",
    ]
    found = figures(house)
    assert found["circles_of_files"].value == 3 and found["circles_of_rooms"].value == 3
    assert found["circles_of_rooms"].where == ["left <-> run <-> units"]


def test_a_house_without_circles_has_none(build):
    house = build(
        run__loop="from bigbatch.left.one import x\n", left__one="from bigbatch.units import y\n", units=""
    )
    found = figures(house)
    assert (found["upward_arrows"].value, found["circles_of_files"].value) == (0, 0)


def test_circles_are_groups_that_reach_one_another():
    arrows = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"f", "a"}}
    assert sorted(circles(arrows)) == [["a", "b", "c"], ["d", "e"]]


def test_any_is_counted_where_it_is_a_type(build):
    house = build(
        run__loop='from typing import Any\n\ndef f(a: Any) -> list[Any]:\n    """Any."""\n    b: dict[str, Any] = {}\n',
        api="x: Any = 1\n",
        left__one="",
    )
    assert mentions_of_any(house) == {"run": 3, "api": 1}


def test_questions_to_a_task(build):
    house = build(
        run__loop="getattr(task, 'a', None)\nhasattr(self.task, 'b')\ngetattr(recipe, 'task')\ngetattr(own_task, 'c')\n"
    )
    assert figures(house)["asked_tasks"].value == 3


def test_a_function_is_as_long_as_its_lines_without_its_docstring(build):
    text = '"""A docstring\n' + "\n" * 50 + '"""\n'
    body = "    x = 1\n" * 79
    house = build(
        run__loop=f"def fits():\n    {text}{body}\nclass A:\n    def long(self):\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
        + "        x = 2\n"
    )
    assert [place.partition(" ")[2] for place in figures(house)["long_functions"].where] == [
        "A.long (81 lines)"
    ]


def test_public_functions_of_three_arguments_say_what_those_are(build):
    house = build(
        run__loop="""
def silent(a, b, *, c): pass
def two(a, b): pass
def _private(a, b, c): pass
def said(a, b, c, *, d, **others):
    '''One.

    Args:
        a: metres.
        b, c: seconds, of the
            second: and the third.
        d: what the call
        **others: for it.

    Returns:
        e: nothing.
    '''
    def inner(a, b, c): pass
def half(a, b, c):
    '''One.

    Args:
        a: metres.
    '''
def stale(a, b, c):
    '''One.

    Args:
        a, b, c: metres.
        gone: was one.
    '''
@app.command(epilog="words")
def command(a, b, c): pass
class A:
    def method(self, a, b): pass
    def silent(self, a, b, c): pass
"""
    )
    found = figures(house)["silent_functions"]
    assert [place.rpartition(" ")[2] for place in found.where] == ["silent", "half", "stale", "A.silent"]


def test_docstrings_are_no_lines_that_need_a_test():
    text = '"""Room."""\n\nclass A:\n    """Two\n    lines."""\n\n    x: int\n    """Metres."""\n    y = "text"\n'
    assert lines_of_code(text) == 5


def test_shares_of_lines(build):
    house = build(run__loop="\n" * 15, left__one="\n" * 5)
    found = figures(house)
    assert found["largest_room"].value == 75 and found["tests_to_source"].value == 0.5
    assert found["rooms"].value == 2


def test_worse_fails_and_so_does_much_better():
    bounds = {"any": 100, "ratio": 0.7}

    def said(count: float, ratio: float) -> list[str]:
        found = {
            "any": Figure(count, "mentions", ["here"], margin=0.05),
            "ratio": Figure(ratio, "tests", more_is_better=True, margin=0.05),
            "lines": Figure(10**6, "shown", bound=False),
        }
        return [line.partition(":")[0] for line in complaints(found, bounds)]

    assert said(100, 0.7) == said(96, 0.72) == []
    assert said(101, 0.7) == ["any"] and said(94, 0.7) == ["any"]
    assert said(100, 0.69) == ["ratio"] and said(100, 0.75) == ["ratio"]
    assert "here" in complaints({"any": Figure(101, "mentions", ["here"])}, bounds)[0]
    assert "no bound" in complaints({"new": Figure(1, "x")}, bounds)[0]


def test_a_room_that_is_not_written_down_may_say_no_any():
    assert complaints_of_rooms({"run": 3, "left": 1}, {"run": 3, "left": 2}) == []
    assert [line[:5] for line in complaints_of_rooms({"run": 4, "new": 1}, {"run": 3})] == ["new: ", "run: "]


TRACED = {
    "gradient": [
        Step("cli/app.py", 3, "main"),
        Step("api.py", 9, "train"),
        Step("step/executor.py", 5, "run"),
    ],
    "optimizer": [
        Step("cli/app.py", 3, "main"),
        Step("api.py", 9, "train"),
        Step("step/update.py", 7, "move"),
    ],
}


def test_a_path_has_files_calls_and_frames():
    found = {name: figure.value for name, figure in path_figures(TRACED).items()}
    assert found == {"path_files": 4, "path_calls": 4, "path_frames": 3}


def test_a_path_is_written_between_its_marks():
    page = f"before\n{PATH_BEGINS}\nold\n{PATH_ENDS}\nafter\n"
    written = with_path(page, path_text(TRACED))
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert "step/executor.py:5  run" in written and "step/update.py:7    move" in written
    assert written.count("api.py:9") == 1
    assert with_path("without marks", "text") == "without marks"


def test_the_bounds_name_every_figure_once(root):
    text = json.dumps(read_bounds(root), indent=1, sort_keys=True) + "\n"
    assert (root / "tests" / "house.json").read_text() == text

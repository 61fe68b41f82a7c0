from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.recipe.yaml12 import MAX_DEPTH, dump_yaml, inline_yaml, read_value, read_yaml, resolve_scalar

# The examples of the core schema (YAML 1.2.2, section 10.3.2), and what YAML 1.1 gets wrong.
SCALARS = {
    "5e-5": 5e-5,
    "1e6": 1e6,
    "1.": 1.0,
    ".5": 0.5,
    "-2E+05": -2e5,
    "0": 0,
    "-19": -19,
    "007": 7,
    "0o7": 7,
    "0x3A": 58,
    "true": True,
    "False": False,
    "null": None,
    "~": None,
    "": None,
    "-.INF": -math.inf,
    "no": "no",
    "yes": "yes",
    "on": "on",
    "y": "y",
    "1_000": "1_000",
    "12:30:45": "12:30:45",
    "2001-12-14": "2001-12-14",
    "0b11": "0b11",
    "+0x1": "+0x1",
    "e5": "e5",
    ".": ".",
    "tRue": "tRue",
    "=": "=",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_a_plain_scalar_is_what_the_core_schema_says(text, value):
    found = resolve_scalar(text)
    assert (found, type(found)) == (value, type(value))
    assert read_yaml(f"key: {text}\n").value == {"key": value}


def test_nan_and_integers_longer_than_python_parses():
    assert math.isnan(resolve_scalar(".nan"))
    assert resolve_scalar("9" * 5000) == math.inf


@given(st.floats(allow_nan=False) | st.integers(-(10**300), 10**300))
def test_numbers_survive_writing_and_reading(number):
    assert read_yaml(dump_yaml({"key": number})).value == {"key": number}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_survives_whatever_it_looks_like(text):
    assert read_yaml(dump_yaml({"key": text})).value == {"key": text}
    inline = inline_yaml([text])
    assert "\n" not in inline
    assert read_yaml(f"key: {inline}   # comment").value == {"key": [text]}


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("ab01-:#'\" e.\n", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abno~1", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(TREES)
def test_trees_survive(tree):
    assert read_yaml(dump_yaml({"key": tree})).value == {"key": tree}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_without_an_exception(text):
    document = read_yaml(text)
    assert document.problems or document.lines is not None


def test_lines_are_those_of_the_keys():
    document = read_yaml("a: 1\n\n# comment\nb:\n  c: [1,\n    2]\n")
    assert {path: document.lines[path] for path in [("a",), ("b",), ("b", "c"), ("b", "c", 1)]} == {
        ("a",): 1,
        ("b",): 4,
        ("b", "c"): 5,
        ("b", "c", 1): 6,
    }


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: &x 1\nb: *x", 2, "aliases are refused"),
        ("a: &x 1", 1, "anchors are refused"),
        ("\na: !!python/object/apply:os.system [ls]", 2, "tags are refused"),
        ("a: !foo 1", 1, "tags are refused"),
        ("a: ! 1", 1, "tags are refused"),
        ("!!map {a: 1}", 1, "tags are refused"),
        ("a: 1\nb: 2\na: 3", 3, "given twice, first in line 1"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("? [a]\n: 1", 1, "a key must be plain text"),
        ("*a : 1", 1, "a key must be plain text"),
        ("a: [1, 2", 1, "not valid YAML"),
        ("a: 1\n\tb: 2", 2, "not valid YAML"),
        ("a: \x07", 1, "U+0007"),
        ("[" * (MAX_DEPTH + 5), 1, "nested deeper"),
        ("a" * 1_000_001, 1, "at most 1,000,000"),
    ],
)
def test_what_is_refused_is_said_with_its_line(text, line, part):
    problems = [(found_line, what) for found_line, _, what in read_yaml(text).problems]
    assert any(found_line == line and part in what for found_line, what in problems), problems


def test_a_billion_laughs_expand_to_nothing():
    bomb = "a0: &a0 [x,x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1},*a{n - 1}]\n" for n in range(1, 60))
    document = read_yaml(bomb)
    assert len(repr(document.value)) < 10_000
    assert len(document.problems) == 60 + 2 * 59


def test_all_problems_are_found_at_once():
    document = read_yaml("a: &x 1\nb: !t 2\na: 3\n")
    assert [line for line, _, _ in document.problems] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*.csv", "*.csv"),
        ("6 %", "6 %"),
        ("a: b", "a: b"),
        ("", None),
        ("'5'", "5"),
        ("[a.csv, b.csv]", ["a.csv", "b.csv"]),
        ("{neg: 2.0}", {"neg": 2.0}),
        (" 4096 ", 4096),
        ("file.py:name", "file.py:name"),
    ],
)
def test_values_typed_on_the_command_line(text, value):
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["[1", "{a: *x}", "'a", "[!!int 3]"])
def test_broken_values_typed_on_the_command_line(text):
    with pytest.raises(ValueError):
        read_value(text)

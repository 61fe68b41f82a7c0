from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bigbatch.data.values import convert, number_of
from bigbatch.files.class_names import label_of, labels_of
from bigbatch.files.plain import plain, text_of


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (3, "3"), (3.0, "3"), ("3", "3"), ("3.0", "3"), (" 3.00 ", "3"), (-1.0, "-1"), ("-0012.0", "-12"),
        (True, "true"), (False, "false"), ("True", "true"), (" neg ", "neg"), ("007", "007"), ("1.5", "1.5"),
        (None, None), ("", None), ("  ", None), (float("nan"), None), ("NaN", "NaN"), ("None", "None"),
        (10**30, str(10**30)), (1e300, str(int(1e300))),
    ],
)  # fmt: skip
def test_one_class_has_one_name(value: object, name: str | None):
    assert label_of(value) == name


@pytest.mark.parametrize("value", [0.5, float("inf"), [1], {"a": 1}, b"\xff"])
def test_what_is_no_label(value: object):
    with pytest.raises(ValueError, match=r"is not a class|expected a label|not UTF-8"):
        label_of(value)


def test_text_numbers_and_lists():
    assert [text_of(value) for value in ("a", 3, 1.5, True, None, float("nan"))] == [
        "a",
        "3",
        "1.5",
        "True",
        None,
        None,
    ]
    assert [labels_of(value) for value in ("a|b", "a", "", None, ["b", "a", "b"], 3)] == [
        ["a", "b"], ["a"], [], None, ["b", "a"], ["3"],
    ]  # fmt: skip
    assert [number_of(value) for value in (1, "2.5", "", None, [4], True)] == [1.0, 2.5, None, None, 4.0, 1.0]
    with pytest.raises(ValueError, match="expected a number, found 'x'"):
        number_of("x")


@pytest.mark.parametrize(
    "column",
    [
        pa.chunked_array([["1.0", "b"], [None, "b"]]),
        pa.chunked_array([["1.0", "b"], [None, "b"]], pa.large_string()),
        pa.chunked_array([pa.array(["1.0", "b", None, "b"]).dictionary_encode()]),
        ["1.0", "b", None, "b"],
        [np.str_("1.0"), "b", float("nan"), "b"],
    ],
)
def test_labels_are_the_same_from_every_storage(column):
    values, problems = convert(column, "label", "label", str)
    assert values.to_pylist() == ["1", "b", None, "b"] and values.type == pa.large_string()
    assert problems == []


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.bool_()])
def test_typed_labels(kind: pa.DataType):
    values, problems = convert(
        pa.chunked_array([pa.array([1, 0, None], pa.float32()).cast(kind)]), "label", "l", str
    )
    assert values.to_pylist() == (["true", "false", None] if kind == pa.bool_() else ["1", "0", None])
    assert problems == []


def test_mixed_labels_name_the_few():
    values = ["a"] * 5 + [1, True, None, "b", float("nan")]
    _, problems = convert(values, "label", "stars", lambda row: f"a.jsonl:{row + 1}")
    assert [str(problem) for problem in problems] == [
        "a.jsonl:6: stars: mixed label types: here it is a number, in 6 rows it is text",
        "a.jsonl:7: stars: mixed label types: here it is true/false, in 6 rows it is text",
    ]


@pytest.mark.parametrize("value", [10**400, 1e308, "1e39", -3.5e38, np.float64(1e200)])
def test_numbers_beyond_float32_are_refused(value):
    with pytest.raises(ValueError, match="the largest number that float32 holds"):
        number_of(plain(value))


def test_the_largest_number_of_float32_is_one():
    assert number_of(3.4e38) == 3.4e38

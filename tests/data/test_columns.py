from __future__ import annotations

import pytest

from bigbatch.data.columns import guess_column, pick_columns
from bigbatch.errors import DataError
from bigbatch.protocols import Role
from tests.data.tables import PAIRED, REGRESSION, SINGLE


def pick(available: str, roles=SINGLE, **wanted: str) -> dict[str, str]:
    return pick_columns(available.split(), wanted, roles, "a.csv")


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ("text label", {"text": "text", "label": "label"}),
        ("review text sentiment label", {"text": "text", "label": "label"}),
        ("Tweet Sentiment confidence", {"text": "Tweet", "label": "Sentiment"}),
        ("idx sentence label", {"text": "sentence", "label": "label", "id": "idx"}),
    ],
)
def test_the_usual_names(available: str, expected: dict[str, str]):
    assert pick(available) == expected


def test_what_is_said_wins():
    assert pick("text label stars", label="stars") == {"text": "text", "label": "stars"}
    assert pick("a b c", text="b", label="c", id="a") == {"text": "b", "label": "c", "id": "a"}
    assert pick("title text label", PAIRED, text="title", pair="text") == {
        "text": "title",
        "pair": "text",
        "label": "label",
    }


def test_a_number_may_have_the_names_of_numbers():
    assert pick("text score", REGRESSION) == {"text": "text", "label": "score"}
    with pytest.raises(DataError, match="no column for the label"):
        pick("text score", SINGLE)


def test_a_role_of_your_own_is_found_by_its_name_only():
    roles = {**SINGLE, "aspect": Role(meaning="what it is about")}
    assert pick("text label aspect", roles)["aspect"] == "aspect"
    with pytest.raises(DataError, match=r"no column for the aspect \(what it is about\); set data.columns"):
        pick("text label content", roles)


@pytest.mark.parametrize(
    ("available", "wanted", "message"),
    [
        ("review body label", {}, r"review, body could each be the text .*data.columns: \{text: review\}"),
        ("txt label", {}, r"no column for the text .*There are: txt, label; did you mean txt\?"),
        (
            "text label",
            {"lable": "label"},
            r"data.columns.lable: this task has no such role; did you mean label\?",
        ),
        (
            "text label",
            {"text": "Texts"},
            r"a.csv: data.columns.text: no column 'Texts'; did you mean text\?",
        ),
        ("0 1.5", {}, "is the first line a header"),
    ],
)
def test_what_cannot_be_picked_says_what_to_do(available: str, wanted: dict[str, str], message: str):
    with pytest.raises(DataError, match=message):
        pick(available, **wanted)


def test_all_problems_come_at_once():
    with pytest.raises(DataError) as caught:
        pick("a b", text="x", label="y", other="z")
    assert [problem.key for problem in caught.value.problems] == [
        "data.columns.other",
        "data.columns.text",
        "data.columns.label",
    ]


def test_long_lists_are_cut():
    with pytest.raises(DataError, match=r"c11 and 28 more"):
        pick_columns([f"c{number}" for number in range(40)], {"text": "nothing"}, SINGLE, "a.csv")


def test_guesses_leave_out_what_is_taken():
    assert guess_column("text", "text", ["Review", "text"]) == ["text", "Review"]
    assert guess_column("text", "text", ["Review", "text"], ["text"]) == ["Review"]

"""Two columns of texts without a label, and columns whose role the user names."""

from __future__ import annotations

import pytest

from bigbatch.data.guess import profile
from bigbatch.errors import DataError

EN = [f"the {color} house number {n} is old" for n in range(30) for color in ("red", "green")]
DE = [f"das {color} Haus mit der Nummer {n} ist alt" for n in range(30) for color in ("rote", "grüne")]


def table(tmp_path, **columns):
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    (tmp_path / "a.tsv").write_text(
        "\n".join(["\t".join(names), *("\t".join(map(str, row)) for row in rows)]) + "\n"
    )
    return "a.tsv"


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("english", "german"),
        ("question", "answer"),
        ("sentence1", "sentence2"),
        ("anchor", "positive"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_two_texts_without_a_label(tmp_path, query, document, swapped):
    columns = {query: EN, document: DE}
    if swapped and query != "english":
        columns = {document: DE, query: EN}
    found = profile(table(tmp_path, **columns), base=tmp_path)
    assert found.columns == {"query": query, "document": document}
    assert (found.class_counts, found.missing_labels, found.running) == ({}, 0, None)
    assert found.words["p50"] > 12  # of both together


def test_the_clearly_shorter_one_is_the_query(tmp_path):
    found = profile(
        table(tmp_path, body=[f"{a} and {b}" for a, b in zip(EN, DE, strict=True)], name=EN), base=tmp_path
    )
    assert found.columns == {"query": "name", "document": "body"}


def test_a_negative_and_an_id_keep_their_roles(tmp_path):
    found = profile(table(tmp_path, id=range(60), query=EN, document=DE, negative=DE[::-1]), base=tmp_path)
    assert found.columns == {"query": "query", "document": "document", "negative": "negative", "id": "id"}


@pytest.mark.parametrize(
    "other",
    [
        [f"Mon Apr {n % 28 + 1} 22:{n:02d}:45 2009" for n in range(60)],
        ["John Smith", "Mary Jones", "Ann Lee"] * 20,
        [f"{n}.{n}" for n in range(60)],
        [f"user{n}" for n in range(60)],
    ],
    ids=["dates", "names of a few", "numbers", "single words"],
)
def test_a_text_beside_something_else_is_one_text(tmp_path, other):
    found = profile(table(tmp_path, text=EN, other=other), base=tmp_path)
    assert "query" not in found.columns and found.columns["text"] == "text"


def test_labels_are_labels_beside_two_texts(tmp_path):
    found = profile(table(tmp_path, premise=EN, hypothesis=DE, label=[0, 1, 2] * 20), base=tmp_path)
    assert found.columns == {"text": "premise", "pair": "hypothesis", "label": "label"}


def test_columns_that_are_named_have_those_roles(tmp_path):
    name = table(tmp_path, text=EN, review=DE, label=[0, 1] * 30, stars=[1, 2, 3] * 20)
    found = profile(name, base=tmp_path, columns={"text": "review", "label": "stars"})
    assert found.columns == {"text": "review", "label": "stars"}
    assert found.class_counts == {"1": 20, "2": 20, "3": 20}
    found = profile(name, base=tmp_path, columns={"query": "review", "document": "text"})
    assert found.columns == {"query": "review", "document": "text"} and found.class_counts == {}
    assert profile(name, base=tmp_path, columns={"label": "stars"}).columns == {
        "text": "text",
        "label": "stars",
    }
    found = profile(name, base=tmp_path, columns={"pair": "review", "id": "stars"})
    assert found.columns == {"text": "text", "label": "label", "pair": "review", "id": "stars"}


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"txt": "text"}, "--column txt: no task has such a role; did you mean text?"),
        ({"text": "txet"}, "--column text: no column 'txet'; did you mean text?"),
        ({"text": "text", "label": "text"}, "column 'text' has two roles"),
        ({"query": "text"}, "--column query: comes with document"),
        ({"tags": "text"}, "--column tags: comes with words"),
        ({"query": "text", "document": "review", "label": "stars"}, "roles of different tasks"),
        ({"words": "text", "tags": "review"}, "lists"),
    ],
)
def test_columns_that_cannot_be_are_refused(tmp_path, columns, what):
    name = table(tmp_path, text=EN, review=DE, label=[0, 1] * 30, stars=[1, 2, 3] * 20)
    with pytest.raises(DataError) as caught:
        profile(name, base=tmp_path, columns=columns)
    assert what in str(caught.value)


def test_words_and_tags_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": ["Bob", "ran"], "b": ["N", "V"], "c": ["B-PER", "O"]}\n' * 5)
    found = profile("a.jsonl", base=tmp_path, columns={"words": "a", "tags": "c"})
    assert found.columns == {"words": "a", "tags": "c"} and found.class_counts == {"B-PER": 5, "O": 5}

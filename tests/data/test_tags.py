"""Sentences of tagged words from every source, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bigbatch.data.checks import check_splits
from bigbatch.data.guess import profile
from bigbatch.data.labels import find_labels
from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.data.tags import has_scheme, unmarked_warning
from bigbatch.errors import DataError
from bigbatch.files.conll import sentences
from bigbatch.protocols import Role

ROLES = {
    "words": Role(meaning="the words", kind="words"),
    "tags": Role(meaning="their tags", kind="tags"),
}
CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n# id 7\nPeter NNP B-PER\n# NN O\n\n"
ROWS = [
    {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
    {"words": ["Peter", "#"], "tags": ["B-PER", "O"]},
]


def read(source: Any, **options: Any) -> DataTable:
    return read_table(source, **{"base": Path(), "columns": {}, "roles": ROLES, **options})


def test_conll_files(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    table = read("a.conll", base=tmp_path)
    assert table.rows.to_pylist() == ROWS
    assert [table.where(row) for row in range(2)] == ["a.conll:3", "a.conll:7"]
    (tmp_path / "a.iob").write_text("New York\tB-LOC\r\nwins\tO\r\n")
    assert read("a.iob", base=tmp_path).rows.to_pylist() == [
        {"words": ["New York", "wins"], "tags": ["B-LOC", "O"]}
    ]


def test_conll_files_without_tags_name_the_lines(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("EU B-ORG\nrejects\n\nPeter\n")
    with pytest.raises(DataError, match=r"a.conll:2: found one column(.|\n)*a.conll:4"):
        read("a.conll", base=tmp_path)
    (tmp_path / "b.conll").write_bytes(b"EU O\n\xff O\n")
    with pytest.raises(DataError, match=r"b.conll:2: byte 0xFF is not UTF-8"):
        read("b.conll", base=tmp_path)
    assert [[columns for _, columns in found] for found in sentences(["a", "b", "", "c"])] == [
        [["a"], ["b"]], [["c"]]
    ]  # fmt: skip


def test_json_lines_lists_and_text_at_white_space(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]}\n')
    assert read("a.jsonl", base=tmp_path).rows.to_pylist() == ROWS[:1]
    (tmp_path / "a.csv").write_text("words,tags\nEU rejects,B-ORG O\n")
    assert read("a.csv", base=tmp_path).rows.to_pylist() == ROWS[:1]
    assert (
        read([{"w": ("EU", "rejects"), "tags": ["B-ORG", "O"]}], columns={"words": "w"}).rows.to_pylist()
        == ROWS[:1]
    )


def test_class_ids_of_datasets_have_their_names() -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features(
        {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-ORG"]))}
    )
    data = Dataset.from_dict({"tokens": [["EU", "rejects"]], "ner_tags": [[1, 0]]}, features=features)
    assert read(data).rows.to_pylist() == ROWS[:1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": ["EU", None], "tags": ["O", "O"]}, "row 2: words: word 2 is missing"),
        ({"words": ["EU"], "tags": [None]}, "row 2: tags: tag 1 is missing"),
        ({"words": 3, "tags": ["O"]}, "row 2: words: expected a list of words, found int"),
        ({"words": ["EU"], "tags": 3}, "row 2: tags: expected a list of tags, one a word, found int"),
        ({"words": ["EU"], "tags": [1.5]}, "row 2: tags: 1.5 is not a class"),
    ],
)
def test_what_cannot_be_read(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read([ROWS[0], row])


def checked(
    train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None, **options: Any
) -> list[str]:
    table = read(train, **options)
    labels = find_labels(table, "tags", "tags")
    other = None if test is None else read(test, **options)
    return check_splits(table, {}, other, kind="tags", labels=labels, roles=ROLES)


def test_what_cannot_be_trained_on_names_its_rows() -> None:
    bad = [
        *ROWS,
        {"words": ["a", "b"], "tags": ["O"]},
        {"words": [], "tags": []},
        {"words": ["a"], "tags": None},
    ]
    with pytest.raises(DataError) as caught:
        checked(bad)
    assert [str(problem) for problem in caught.value.problems] == [
        "train row 3: tags: 2 words, but 1 tags",
        "train row 4: words: empty sentence; remove the row, or set data.empty_text: drop to leave such rows out",
        "train row 5: tags: missing tags",
    ]
    assert checked([*ROWS, bad[3]], empty_text="drop") == [
        "1 rows with empty text were left out, the first at row 3"
    ]
    with pytest.raises(
        DataError, match=r"test row 1: tags: label 'B-LOC' \(2 words of test\) does not occur"
    ):
        checked(ROWS, [{"words": ["a", "b"], "tags": ["B-LOC", "B-LOC"]}])
    with pytest.raises(DataError, match="every word has the label 'O'"):
        checked([{"words": ["a"], "tags": ["O"]}])


def test_tags_that_are_not_iob2_are_counted() -> None:
    odd = {"words": ["a", "b", "c", "d"], "tags": ["I-PER", "I-PER", "I-LOC", "O"]}
    (warning,) = checked([ROWS[0], odd])
    assert warning.startswith("2 entities start with I- instead of B-, the first at row 2 (I-PER)")
    assert checked([{"words": ["a", "b"], "tags": ["NOUN", "I-PER"]}]) == []


def test_equal_sentences_with_other_tags_and_rows_in_both_splits() -> None:
    again = {"words": ROWS[0]["words"], "tags": ["O", "O"]}
    warnings = checked([*ROWS, again], [ROWS[1]])
    assert any("1 texts occur with different labels (2 rows)" in warning for warning in warnings)
    assert any("1 rows of test (100.0 %) are also in train" in warning for warning in warnings)


def test_schemes() -> None:
    assert has_scheme(["O", "B-PER", "I-PER", "S-ORG"])
    assert not has_scheme(["O"]) and not has_scheme(["NOUN", "O"]) and not has_scheme(["B-"])


def test_init_knows_tagged_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL * 3)
    found = profile("a.conll", base=tmp_path)
    assert found.kind == "tags" and found.columns == {"words": "words", "tags": "tags"}
    assert found.class_counts == {"B-ORG": 3, "B-PER": 3, "O": 6} and found.rows == 6
    rows = (
        '{"uid": 1, "pos": ["NOUN", "VERB"], "ner_tags": ["O", "B-X"], "tokens": ["a", "b"], "text": "a b"}\n'
    )
    rows += (
        '{"uid": 2, "pos": ["NOUN", "VERB"], "ner_tags": ["O", "O"], "tokens": ["c", "d"], "text": "c d"}\n'
    )
    (tmp_path / "a.jsonl").write_text(rows)
    found = profile("a.jsonl", base=tmp_path)
    assert found.columns == {"words": "tokens", "tags": "ner_tags", "id": "uid"}
    assert found.candidates["tags"] == ("ner_tags", "pos")
    (tmp_path / "b.jsonl").write_text(
        '{"text": "some words", "labels": ["a", "b"]}\n{"text": "x y", "labels": ["b"]}\n'
    )
    assert profile("b.jsonl", base=tmp_path).kind == "multi"


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u2009", "\u202f", "\x1f", "\x85", "\u2028"])
def test_only_spaces_and_tabs_separate(blank: str, tmp_path: Path) -> None:
    """Other blanks stand inside words, such as between the digits of a number."""
    number = f"10{blank}000"
    (tmp_path / "a.conll").write_text(f"{number} O\nEuro B-X\n", encoding="utf-8", newline="")
    (tmp_path / "b.conll").write_text(f"{number}\tO\r\nEuro\tB-X\r\n", encoding="utf-8", newline="")
    (tmp_path / "c.csv").write_text(f"words,tags\n{number} Euro,O B-X\n", encoding="utf-8", newline="")
    wanted = [{"words": [number, "Euro"], "tags": ["O", "B-X"]}]
    for name in ("a.conll", "b.conll", "c.csv"):
        assert read(name, base=tmp_path).rows.to_pylist() == wanted, name
    assert read([{"words": f"{number} Euro", "tags": "O B-X"}]).rows.to_pylist() == wanted


def test_lists_that_a_table_has_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "words,tags\n\"['EU', 'rejects']\",\"['B-ORG', 'O']\"\n[ Applause ],O X O\n"
    )
    assert read("a.csv", base=tmp_path).rows.to_pylist() == [
        ROWS[0],
        {"words": ["[", "Applause", "]"], "tags": ["O", "X", "O"]},
    ]


@pytest.mark.parametrize(
    ("tags", "marked"),
    [
        (["O", "B-X", "I-X"], True), (["O", "I-X"], True), (["B-X", "I-X", "E-X", "S-X", "O"], True),
        (["B-X", "I-X", "L-X", "U-X", "O"], True), (["B-X", "M-X", "E-X", "S-X", "O"], True),
        (["O", "PER", "LOC"], False), (["O", "B-PER", "LOC"], False), (["O", "B_PER", "I_PER"], False),
        (["NOUN", "VERB"], False), (["O"], False),
    ],
)  # fmt: skip
def test_tags_are_recognised_or_it_is_said(tags: list[str], marked: bool) -> None:
    assert has_scheme(tags) is marked
    said = unmarked_warning(tags)
    assert (said is not None) is (not marked and tags not in (["NOUN", "VERB"], ["O"]))
    assert said is None or "task.scheme: io" in said

"""What `bigbatch init` finds out by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bigbatch.data.guess import profile
from bigbatch.errors import DataError

PLAIN = "the flight was late and the crew is not nice to you but it was on time with a smile"
WORDS = PLAIN.split(" ")


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * 7 + i) % len(WORDS)] for i in range(4 + number % 9))


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def test_a_file_of_reviews(tmp_path: Path):
    rows = [{"id": i, "sentiment": ["neg", "pos", "pos"][i % 3], "review": sentence(i)} for i in range(300)]
    found = profile(write(tmp_path / "a.csv", rows))
    assert found.columns == {"text": "review", "label": "sentiment", "id": "id"}
    assert (found.kind, found.language, found.encoding, found.rows) == ("single", "en", "utf-8", 300)
    assert found.class_counts == {"neg": 100, "pos": 200}
    assert found.words["p10"] <= found.words["p50"] == 8.0 <= found.words["p99"] <= 12
    assert found.characters["p50"] == pytest.approx(4.1 * found.words["p50"], rel=0.3)
    assert found.total_tokens == pytest.approx(300 * (1.3 * 8 + 2), rel=0.05)
    assert (found.empty_texts, found.missing_labels, found.warnings) == (0, 0, ())
    assert found.candidates["label"] == ("sentiment",)


def test_columns_with_names_that_say_nothing_are_found_by_their_values(tmp_path: Path):
    rows = [{"a": i, "b": i % 4, "c": sentence(i), "d": "short note"} for i in range(200)]
    found = profile(write(tmp_path / "a.csv", rows))
    assert found.columns == {"text": "c", "label": "b"}
    assert found.candidates["text"] == ("c", "d")
    assert list(found.class_counts.items()) == [("0", 50), ("1", 50), ("2", 50), ("3", 50)]


def test_pairs_several_labels_and_numbers(tmp_path: Path):
    rows = [{"premise": sentence(i), "hypothesis": sentence(i + 1), "label": i % 3} for i in range(60)]
    pairs = profile(write(tmp_path / "a.jsonl", rows))
    assert (
        pairs.columns == {"text": "premise", "label": "label", "pair": "hypothesis"}
        and pairs.kind == "single"
    )
    rows = [{"text": sentence(i), "tags": ["x", "y", "z"][: i % 4]} for i in range(60)]
    several = profile(write(tmp_path / "b.jsonl", [{**row, "label": row.pop("tags")} for row in rows]))
    assert several.kind == "multi" and several.class_counts == {"x": 45, "y": 30, "z": 15}
    rows = [{"text": sentence(i), "label": ["a|b", "a", "b|c"][i % 3]} for i in range(60)]
    bars = profile(write(tmp_path / "c.csv", rows))
    assert bars.kind == "multi" and bars.class_counts == {"a": 40, "b": 40, "c": 20}
    numbers = profile(write(tmp_path / "d.csv", [{"text": sentence(i), "score": i / 7} for i in range(60)]))
    assert numbers.kind == "regression" and numbers.class_counts == {} and numbers.columns["label"] == "score"


def test_faults_are_counted_and_a_foreign_encoding_is_found(tmp_path: Path):
    lines = ["text,label", *(f"caf\xe9 number {i},{i % 2}" for i in range(20)), ",1", "x,"]
    (tmp_path / "a.csv").write_bytes("\n".join(lines).encode("latin-1"))
    found = profile("a.csv", base=tmp_path)
    assert (found.empty_texts, found.missing_labels, found.encoding) == (1, 1, "latin-1")
    assert found.warnings == ("a.csv is not UTF-8 (byte 0xE9 at offset 14); it is read as latin-1",)


def test_several_files_and_folders(tmp_path: Path):
    write(tmp_path / "a.csv", [{"text": sentence(i), "label": i % 2, "x": 1} for i in range(30)])
    write(tmp_path / "b.csv", [{"text": sentence(i), "label": i % 3} for i in range(30)])
    found = profile(["a.csv", "b.csv"], base=tmp_path)
    assert found.rows == 60 and found.files == ("a.csv", "b.csv") and found.class_counts["2"] == 10
    assert found.warnings == ("the files have different columns; all have: text, label",)
    for kind in ("neg", "pos"):
        (tmp_path / "texts" / kind).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "texts" / kind / f"{number}.txt").write_text(sentence(number))
    folder = profile(tmp_path / "texts")
    assert folder.columns == {"text": "text", "label": "label", "id": "id"}
    assert folder.class_counts == {"neg": 3, "pos": 3}


def test_plain_text_has_one_column_and_no_label(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n\n".join(map(sentence, range(40))))
    found = profile(tmp_path / "a.txt")
    assert (found.columns, found.rows, found.warnings) == ({"text": "text"}, 40, ())


def test_what_cannot_be_guessed_is_said(tmp_path: Path):
    found = profile(write(tmp_path / "a.csv", [{"a": i, "b": i * 1.5} for i in range(50)]))
    assert found.columns == {}
    assert found.warnings == ("no column looks like the text; there are: a, b",)
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="no rows"):
        profile(tmp_path / "empty.csv")


def test_the_room_starts_without_torch_pandas_and_transformers(tmp_path: Path):
    write(tmp_path / "a.csv", [{"text": sentence(i), "label": i % 2} for i in range(30)])
    code = f"""
import importlib, pkgutil, sys, bigbatch.data
for module in pkgutil.iter_modules(bigbatch.data.__path__):
    importlib.import_module("bigbatch.data." + module.name)
from bigbatch.data.guess import profile
assert profile({str(tmp_path / "a.csv")!r}).rows == 30
print(sorted({{"torch", "transformers", "pandas", "datasets", "tokenizers"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_bare_quotes_are_said_and_read_as_characters(tmp_path: Path):
    rows = "".join(f'"so good\tpos\nc" bad {number}\tneg\n' for number in range(20))
    (tmp_path / "a.tsv").write_text(f"text\tlabel\n{rows}")
    found = profile("a.tsv", base=tmp_path)
    assert found.quoting == "none" and found.rows == 40 and found.class_counts == {"neg": 20, "pos": 20}
    assert any("data.quoting: none" in warning for warning in found.warnings)


def test_lists_as_text_and_zeros_and_ones_are_several_labels(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label\n" + "good film,\"['a', 'b']\"\nbad film,['b']\n" * 10)
    found = profile("a.csv", base=tmp_path)
    assert found.kind == "multi" and found.class_counts == {"a": 10, "b": 20}
    (tmp_path / "a.jsonl").write_text('{"text": "good film", "labels": [1.0, 0.0, 1.0]}\n' * 10)
    found = profile("a.jsonl", base=tmp_path)
    assert found.kind == "multi" and found.class_counts == {"0": 10, "2": 10}


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("source,target", ("source", "target")), ("tgt,src", ("src", "tgt")), ("en,zh", ("en", "zh")),
        ("zh_CN,en_US", ("zh_CN", "en_US")), ("summary,text", ("text", "summary")), ("Article,Highlights", ("Article", "Highlights")),
    ],
)  # fmt: skip
def test_two_texts_of_which_one_is_written_from_the_other(tmp_path, header, found):
    lines = [f"the {row}th long sentence,and {row} in other words" for row in "abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "t.csv").write_text("\n".join([header, *lines]))
    columns = profile(tmp_path / "t.csv").columns
    assert (columns["source"], columns["target"]) == found and len(columns) == 2


def test_a_label_beside_two_languages_is_learnt(tmp_path):
    lines = [
        f"the {row}th sentence,der {row}te Satz,{'ab'[place % 2]}"
        for place, row in enumerate("abcdefghijklmnopqrstuvwxyz")
    ]
    (tmp_path / "t.csv").write_text("\n".join(["en,de,label", *lines]))
    columns = profile(tmp_path / "t.csv").columns
    assert columns["label"] == "label" and "source" not in columns

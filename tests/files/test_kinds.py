"""Kinds of files: the same rows from each of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from bigbatch.errors import DataError
from bigbatch.files.kinds import find_files, read_file

TABLE = pa.table({"text": ["one", "two"], "label": ["a", "b"], "other": [1.5, None]})


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pa.parquet.write_table(TABLE, path)
    elif name == "file.arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)
    elif name == "stream.arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)
    elif ".jsonl" in name:
        path.write_bytes(b'{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n')
    else:
        sign = "\t" if ".tsv" in name else ","
        path.write_text(f"text{sign}label\none{sign}a\ntwo{sign}b\n")
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


NAMES = [
    "a.csv",
    "A.CSV",
    "a.tsv",
    "a.jsonl",
    "a.parquet",
    "file.arrow",
    "stream.arrow",
    "a.csv.gz",
    "a.jsonl.gz",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_gives_the_same_rows(tmp_path: Path, name: str):
    raw = read_file(name, write(tmp_path, name), "utf-8")
    loaded = raw.load(["text", "label"])
    values = {
        key: column if isinstance(column, list) else column.to_pylist() for key, column in loaded.items()
    }
    assert values == {"text": ["one", "two"], "label": ["a", "b"]}
    first = 2 if "sv" in name.lower() else 1
    assert raw.where(1) == f"{name}:{first + 1}"


def test_a_folder_of_texts_has_a_class_a_folder(tmp_path: Path):
    for kind, names in {"pos": ["b.txt", "a.txt"], "neg": ["c.txt"], ".hidden": ["d.txt"]}.items():
        (tmp_path / kind).mkdir()
        for name in names:
            (tmp_path / kind / name).write_text(f"text of {name}\n")
    (tmp_path / "pos" / "notes.md").write_text("ignored")
    raw = read_file("reviews", tmp_path, "utf-8")
    loaded = {name: column.to_pylist() for name, column in raw.load(raw.columns).items()}
    assert loaded == {
        "text": ["text of c.txt\n", "text of a.txt\n", "text of b.txt\n"],
        "label": ["neg", "pos", "pos"],
        "id": ["neg/c.txt", "pos/a.txt", "pos/b.txt"],
    }
    (tmp_path / "pos" / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"^reviews/pos/b.txt: byte 0xE9 is not UTF-8.*offset 3"):
        read_file("reviews", tmp_path, "utf-8")
    assert read_file("reviews", tmp_path, "latin-1").load(["text"])["text"].to_pylist()[2] == "café"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"x", r"^a.xlsx: unknown kind of file '.xlsx'; expected .csv"),
        ("a", b"x", "unknown kind of file ''"),
        ("a.parquet", b"PAR1 but not really", "^a.parquet: cannot be read: "),
        ("a.arrow", b"nothing of the kind", "^a.arrow: cannot be read: "),
        ("a.csv.gz", b"not compressed", "^a.csv.gz: cannot be read: "),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_file(name, tmp_path / name, "utf-8")


def test_plain_text_is_a_document_a_line(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufefffirst\r\n\n  \nsec\u2028ond \rthird".encode())
    found = read_file("a.txt", path, "utf-8")
    assert found.load(["text"])["text"].to_pylist() == ["first", "sec\u2028ond ", "third"]
    assert [found.where(row) for row in range(3)] == ["a.txt:1", "a.txt:4", "a.txt:5"]
    path.write_bytes(b"good\nb\xe9te\n")
    with pytest.raises(DataError, match=r"^a.txt: byte 0xE9 is not UTF-8.*line 2, byte offset 6"):
        read_file("a.txt", path, "utf-8")
    assert read_file("a.txt", path, "latin-1").load(["text"])["text"].to_pylist() == ["good", "béte"]


def test_a_folder_of_text_files_is_a_document_a_file(tmp_path: Path):
    folder = tmp_path / "books"
    folder.mkdir()
    for name in ("b.txt", "a.txt", "c.md"):
        (folder / name).write_text(f"text of\n{name}\n")
    found = read_file("books", folder, "utf-8")
    assert found.columns == ("text", "id")
    columns = found.load(["text", "id"])
    assert columns["text"].to_pylist() == ["text of\na.txt\n", "text of\nb.txt\n"]
    assert columns["id"].to_pylist() == ["a.txt", "b.txt"]


def test_folders_without_texts_and_unknown_encodings(tmp_path: Path):
    with pytest.raises(DataError, match="expected .txt files or images in it, or one folder of them a class"):
        read_file("d", tmp_path, "utf-8")
    with pytest.raises(DataError, match=r"data.encoding: found 'utf-80'; .*did you mean utf-8\?"):
        read_file("a.csv", write(tmp_path, "a.csv"), "utf-80")
    with pytest.raises(DataError, match="found 'cp1252'; expected one of utf-8"):
        read_file("a.csv", write(tmp_path, "a.csv"), "cp1252")


def test_paths_are_relative_patterns_are_sorted_and_missing_files_name_the_nearest(tmp_path: Path):
    for name in ("b.csv", "a.csv", "c.tsv"):
        (tmp_path / name).touch()
    assert find_files("a.csv", tmp_path) == [("a.csv", tmp_path / "a.csv")]
    assert find_files("*.csv", tmp_path) == [("a.csv", tmp_path / "a.csv"), ("b.csv", tmp_path / "b.csv")]
    assert [name for name, _ in find_files(str(tmp_path / "*.csv"), Path())] == [
        str(tmp_path / "a.csv"),
        str(tmp_path / "b.csv"),
    ]
    with pytest.raises(DataError, match=r"^c.csv: no such file .*did you mean"):
        find_files("c.csv", tmp_path)
    with pytest.raises(DataError, match="no file matches"):
        find_files("*.jsonl", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_files("sub/a.csv", tmp_path)

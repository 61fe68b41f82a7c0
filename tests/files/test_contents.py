from __future__ import annotations

import gzip
import os
import socket
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bigbatch.errors import DataError
from bigbatch.files import contents
from bigbatch.files.kinds import read_file


def bomb(path: Path, size_bytes: int, piece: bytes) -> Path:
    """A .gz of one piece again and again, written without holding it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block, total, check = piece * (2**20 // len(piece)), 0, 0
    with path.open("wb") as file:
        file.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
        while total < size_bytes:
            file.write(packer.compress(block))
            total, check = total + len(block), zlib.crc32(block, check)
        file.write(packer.flush() + struct.pack("<II", check, total & 0xFFFFFFFF))
    return path


@pytest.mark.parametrize(
    "suffix", [".csv", ".tsv", ".jsonl", ".json", ".txt", ".conll", ".parquet", ".arrow", ".csv.gz"]
)
@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket"])
def test_what_has_no_end_is_refused_at_once(tmp_path, monkeypatch, suffix, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    name = f"a{suffix}"
    if kind == "a named pipe":
        os.mkfifo(name)
    elif kind == "a device":
        os.symlink("/dev/zero", name)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(name)
    with pytest.raises(DataError, match=f"^a{suffix}: is {kind}; expected a plain file"):
        read_file(name, tmp_path / name, "utf-8")


def test_a_pipe_in_a_folder_of_texts_is_named(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "1.txt").write_text("fine")
    os.mkfifo(tmp_path / "good" / "2.txt")
    with pytest.raises(DataError, match="folder/good/2.txt: is a named pipe"):
        read_file("folder", tmp_path, "utf-8")


def test_a_small_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "ALWAYS_BYTES", 2**24)
    packed = bomb(tmp_path / "a.csv.gz", 2**26, b"text,label\n")
    assert packed.stat().st_size < 2**18
    with pytest.raises(DataError, match=r"unpacks to more than .*; if that is meant, unpack it first"):
        read_file("a.csv.gz", packed, "utf-8")


def test_nothing_is_no_text(tmp_path):
    """Holes of a sparse file, and the usual bomb."""
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(DataError, match="holds 4.0 MiB of NUL bytes from byte 0 on"):
        read_file("a.csv", tmp_path / "a.csv", "utf-8")
    with pytest.raises(DataError, match="NUL bytes"):
        read_file("b.csv.gz", bomb(tmp_path / "b.csv.gz", 2**25, b"\0"), "utf-8")


def test_text_that_packs_well_is_read(tmp_path):
    """Many times the chunk, and far more than 200 times its size: 256 MiB are always fine."""
    rows = "text,label\n" + "a good flight,yes\n" * 400_000
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(rows.encode(), 1))
    assert read_file("a.csv.gz", tmp_path / "a.csv.gz", "utf-8").rows == 400_000


def test_a_parquet_file_of_one_text_a_million_times_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "ALWAYS_BYTES", 2**24)
    texts = pa.array(["x" * 1000]).take(pa.array([0] * 100_000))
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression="zstd")
    raw = read_file("a.parquet", tmp_path / "a.parquet", "utf-8")
    with pytest.raises(DataError, match="unpacks to more than"):
        raw.load(["text"])


def test_a_parquet_file_with_more_rows_than_it_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "ALWAYS_ROWS", 1000)
    parquet.write_table(pa.table({"text": ["a"] * 1_000_000}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="says that it has 1,000,000 rows in"):
        read_file("a.parquet", tmp_path / "a.parquet", "utf-8")

"""Arrow and Parquet files of a few kilobytes that stand for gigabytes: known before they are unpacked or written out."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from bigbatch.errors import DataError
from bigbatch.files import contents, parquets
from bigbatch.files.expanded import _sizes
from bigbatch.files.kinds import read_file

LONG = "word " * 2**18
"""1.25 MiB."""


def write(path: Path, *batches: pa.RecordBatch, packed: str | None = None, stream: bool = False) -> Path:
    options = ipc.IpcWriteOptions(compression=packed)
    with pa.OSFile(str(path), "wb") as file:
        new = ipc.new_stream if stream else ipc.new_file
        with new(file, batches[0].schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return path


def read(path: Path):
    return read_file(path.name, path, "utf-8")


def batch(text: pa.Array) -> pa.RecordBatch:
    return pa.record_batch([text, pa.array(["a"] * len(text))], names=["text", "label"])


def refused(path: Path, words: str, most_bytes: int = 2**26) -> None:
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match=words):
        raw = read(path)
        for name in raw.columns:
            raw.load([name])
    assert pa.total_allocated_bytes() - before < most_bytes


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("packed", ["zstd", "lz4"])
def test_packed_buffers_are_counted_before_they_are_unpacked(tmp_path, packed, stream, monkeypatch):
    monkeypatch.setattr(contents, "ALWAYS_BYTES", 2**20)
    monkeypatch.setattr(contents, "MOST_RATIO", 20)
    few = batch(pa.array(["a" * 2**24]))
    monkeypatch.setattr("pyarrow.ipc.open_file", None)  # nothing is to be unpacked
    monkeypatch.setattr("pyarrow.ipc.open_stream", None)
    refused(write(tmp_path / "a.arrow", few, few, packed=packed, stream=stream), "unpacks to more than")


@pytest.mark.parametrize("stream", [False, True])
def test_rows_that_take_no_room_are_refused(tmp_path, stream):
    none = pa.record_batch([pa.nulls(10**8), pa.nulls(10**8)], names=["text", "label"])
    refused(
        write(tmp_path / "a.arrow", *[none] * 100, stream=stream), r"says that it has [\d,]+,000,000 rows in"
    )
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2 * 10**9], pa.int64()), pa.array(["the flight"]))
    path = write(tmp_path / "b.feather", pa.record_batch([runs], names=["text"]), stream=stream)
    refused(path, "says that it has 2,000,000,000 rows in")
    wide = pa.FixedSizeListArray.from_arrays(pa.nulls(10**9), 10**9)
    path = write(tmp_path / "c.ipc", pa.record_batch([wide], names=["text"]), stream=stream)
    refused(path, "says that it has 1,000,000,000 rows in")


def shared(kind: str) -> pa.Array:
    indices, texts = pa.array([0] * 1000, pa.int32()), pa.array([LONG])
    coded = pa.DictionaryArray.from_arrays(indices, texts)
    if kind == "runs":
        return pa.RunEndEncodedArray.from_arrays(pa.array([1000], pa.int32()), texts)
    if kind == "list":
        return pa.ListArray.from_arrays(pa.array([0, 1000], pa.int32()), coded)
    if kind == "list of fixed size":
        return pa.FixedSizeListArray.from_arrays(coded, 10)
    if kind == "map":
        return pa.MapArray.from_arrays(pa.array([0, 1000], pa.int32()), pa.array(["k"] * 1000), coded)
    if kind == "views":
        one = pa.array([LONG], pa.string_view()).buffers()
        return pa.Array.from_buffers(
            pa.string_view(), 1000, [None, pa.py_buffer(one[1].to_pybytes()[:16] * 1000), *one[2:]]
        )
    if kind == "struct":
        return pa.StructArray.from_arrays([coded], ["x"])
    if kind == "dictionary of lists":
        return pa.DictionaryArray.from_arrays(indices, pa.array([[LONG, LONG]]))
    if kind == "list views":
        return pa.ListViewArray.from_arrays(
            pa.array([0] * 1000, pa.int32()), pa.array([1] * 1000, pa.int32()), texts
        )
    return coded


@pytest.mark.parametrize(
    "kind",
    [
        "dictionary",
        "runs",
        "list",
        "list of fixed size",
        "struct",
        "map",
        "dictionary of lists",
        "list views",
        "views",
    ],
)
@pytest.mark.parametrize("packed", [None, "zstd"])
def test_one_text_for_many_rows_is_counted_for_each(tmp_path, kind, packed):
    refused(
        write(tmp_path / "a.arrow", pa.record_batch([shared(kind)], names=["text"]), packed=packed),
        "unpacks to more",
    )


@pytest.mark.parametrize("written", ["dictionary", "texts", "list"])
def test_one_text_for_many_rows_of_parquet(tmp_path, written):
    column = shared("list" if written == "list" else "dictionary")
    column = column.cast(pa.string()) if written == "texts" else column
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": column}), path, compression="zstd")
    assert path.stat().st_size < 2**20
    del column
    refused(path, "unpacks to more than")


def test_texts_that_could_be_shared_are_read_as_they_are(tmp_path, monkeypatch):
    """Lists and texts, of which only the first fit into the file's dictionaries, in several row groups."""
    monkeypatch.setattr(contents, "ALWAYS_BYTES", 2**20)
    lists = [[f"word {number % 999}", f"only {number}"] for number in range(3000)]
    coded = pa.array(lists, pa.list_(pa.dictionary(pa.int32(), pa.string())))
    table = pa.table({"lists": lists, "text": [" ".join(each) for each in lists], "coded": coded})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=1300, dictionary_pagesize_limit=4000)
    assert parquets._check_claims(parquet.read_metadata(path), table.column_names, path.stat().st_size)
    assert read(path).load(table.column_names)["lists"].to_pylist() == lists
    for name in table.column_names:
        assert read(path).load([name])[name].to_pylist() == table.column(name).to_pylist()


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_what_shares_within_reason_is_read(tmp_path, suffix):
    """Classes as dictionaries, texts that repeat, lists, holes; packed, in several batches."""
    texts = pa.array(["fine", None, "a good flight"] * 1000)
    lists = pa.array([["a", "b"], None, []] * 1000)
    table = pa.table(
        {"text": texts, "label": texts.dictionary_encode(), "lists": lists, "id": list(range(3000))}
    )
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=700)
    else:
        write(path, *table.to_batches(max_chunksize=3000), packed="lz4")
    raw = read(path)
    assert raw.rows == 3000
    found = raw.load(list(table.column_names))
    for name in table.column_names:
        assert found[name].to_pylist() == table.column(name).to_pylist()


def test_sizes_are_those_of_the_values():
    """Slices, holes and nesting, against the values themselves."""
    texts = pa.array(["a", None, "bcd", "", "efghi"])
    coded = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 1, 1]), pa.array(["xy", "z" * 10]))
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 2, 5], pa.int32()), coded)
    assert _sizes(texts).tolist() == [1, 0, 3, 0, 5]
    assert _sizes(texts[2:]).tolist() == [3, 0, 5]
    assert _sizes(texts.cast(pa.string_view())[2:]).tolist() == [3, 0, 5]
    assert _sizes(coded[2:]).tolist() == [2, 10, 10]
    assert _sizes(lists[1:]).tolist() == [0, 22]
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5]), pa.array(["ab", "c"]))
    assert _sizes(runs[1:4]).tolist() == [2, 1, 1]
    assert _sizes(pa.StructArray.from_arrays([texts, coded], ["a", "b"])[2:]).tolist() == [5, 10, 15]


def test_no_arrow_file_is_named(tmp_path):
    good = write(tmp_path / "good.arrow", batch(pa.array(["a"] * 100))).read_bytes()
    for number, content in enumerate(
        [
            b"",
            b"ARROW1",
            b"\0" * 100,
            good[:200],
            good[:-20] + good[-10:],
            b"\xff" * 100,
            b"\x7f" * 100 + b"ARROW1",
        ]
    ):
        (tmp_path / f"{number}.arrow").write_bytes(content)
        with pytest.raises(DataError, match=rf"{number}\.arrow"):
            read(tmp_path / f"{number}.arrow")

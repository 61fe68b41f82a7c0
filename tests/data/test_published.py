"""An index of published tokens and its shards, as a liar would write them; and a shelf that brings, checks, puts away."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bigbatch.data.published import columns_of, read_index
from bigbatch.data.shards import ShardOrder
from bigbatch.data.shelf import Shelf, Store
from bigbatch.data.streamed import ShardColumn, most_bytes_at_once, read_lengths, streamed_table
from bigbatch.errors import DataError, MachineError, UsageError
from bigbatch.remote.addresses import INDEX, is_index
from bigbatch.remote.exact import Wanted, beside
from bigbatch.remote.keep import Patience
from bigbatch.stored import Damaged
from tests.remote.servers import web

QUICK = Patience(silent_seconds=0.3, attempts=2, pause_seconds=0.01)
SIZES = [2, 0, 3, 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    found = tmp_path / "tokens"
    found.mkdir()
    first, shards = 0, []
    counts = np.array([2, 1, 3, 1, 2, 4], np.int64)
    for number, samples in enumerate(SIZES):
        tokens = int(counts[first : first + samples].sum())
        start = int(counts[:first].sum())
        columns = {
            "tokens.ids": np.arange(start, start + tokens, dtype=np.int32),
            "units.at": np.zeros(samples, np.int32),
            "units.values": np.arange(first, first + samples),
            "units.weights": np.ones(samples, np.float32),
        }
        save_file(columns, found / f"{number:05}.safetensors")
        shards.append({**about(found / f"{number:05}.safetensors"), "samples": samples})
        first += samples
    save_file({"tokens.count": counts, "units.count": np.ones(6, np.int64)}, found / "lengths.safetensors")
    names = {"tokens.ids": "<i4", "units.at": "<i4", "units.values": "<i8", "units.weights": "<f4"}
    index = {
        "format": 1, "made": {}, "labels": [], "tokenised": False, "truncated_samples": 0, "idle_samples": 0,
        "weights": "zeros and ones", "columns": {name: {"dtype": dtype, "shape": []} for name, dtype in names.items()},
        "lengths": about(found / "lengths.safetensors"), "shards": shards,
    }  # fmt: skip
    (found / INDEX).write_text(json.dumps(index))
    return found


def about(path: Path) -> dict:
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def shelf(place: str, folder: Path, bound: int = 10**6) -> Shelf:
    index = read_index(place, "the index", folder / INDEX)
    wanted = Wanted(most_bytes=0, patience=QUICK)
    root = folder.parent / "copies"
    return Shelf(
        Store(index=index, root=root, bound_bytes=bound, wanted=wanted, problem=lambda shard, columns: "")
    )


def test_a_streamed_column_is_the_column_in_one_piece(folder):
    found = shelf(str(folder / INDEX), folder)
    lengths = read_lengths(found.index, folder / "lengths.safetensors")
    table = streamed_table(found, lengths, {"tokens": 1}, None)
    assert table.sources == (0, 2, 2, 5)
    taken = table.take(np.array([5, 0, 3, 5])).load()
    assert taken.ids.tolist() == [9, 10, 11, 12, 0, 1, 6, 9, 10, 11, 12]
    assert taken.values.tolist() == [5, 0, 3, 5]
    column = table.streams["tokens"].columns["ids"]
    assert isinstance(column, ShardColumn) and column[3:7].tolist() == [3, 4, 5, 6]
    with pytest.raises(UsageError, match="tokens.ids of all samples at once"):
        np.asarray(column)


def test_shards_come_in_the_order_of_the_stream_under_the_bound_and_are_put_away(folder):
    order = ShardOrder(SIZES, 3, window=2)
    ahead = list(itertools.islice(order.shards_from(0), 8))
    rows = order.ids(0, 12)
    firsts = np.cumsum([0, *SIZES])
    met = (np.searchsorted(firsts, rows, side="right") - 1).tolist()
    assert sorted(ahead[:4]) == [0, 1, 2, 3] == sorted(ahead[4:])
    assert [ahead.index(shard) // 2 for shard in met[:6]] == sorted(
        ahead.index(shard) // 2 for shard in met[:6]
    )
    size = max(shard["bytes"] for shard in shelf("x", folder).index.shards)
    with web() as site:
        site.files = {f"/t/{path.name}": path.read_bytes() for path in folder.iterdir()}
        found = shelf(f"{site.url}/t/{INDEX}", folder, bound=2 * size)
        for position in range(6):
            needed = [met[position]]
            found.seek(needed, lambda position=position: order.shards_from(position))
            while found.missing(needed):
                found.wait(5)
            copies = [*(folder.parent / "copies").glob("*/*.safetensors")]
            assert needed[0] in found._mapped
            assert sum(path.stat().st_size for path in copies) <= 2 * size
        found.close()
        assert most_bytes_at_once(found.index, 1) == sum(shard["bytes"] for shard in found.index.shards)


@pytest.mark.parametrize("trick", ["other", "more", "gone", "cut", "html"])
def test_a_shard_that_is_not_the_one_of_the_index_is_refused(folder, trick):
    with web() as site:
        site.files = {f"/t/{path.name}": path.read_bytes() for path in folder.iterdir()}
        site.tricks = [trick] * 2 if trick == "cut" else [trick]
        found = shelf(f"{site.url}/t/{INDEX}", folder)
        with pytest.raises(MachineError if trick == "cut" else DataError, match=r"t/00000\.safetensors"):
            found.columns(0)
        if trick == "other":
            return
        assert found.columns(0)["units.values"].tolist() == [0, 1], "and comes once the server has it"


def test_a_server_that_announces_a_terabyte_is_not_listened_to(folder):
    with web() as site:
        site.files = {f"/t/{path.name}": path.read_bytes() for path in folder.iterdir()}
        site.files["/t/00000.safetensors"] += b"x" * 4096
        with pytest.raises(DataError, match=r"announces [\d,]+ bytes, and the index says"):
            shelf(f"{site.url}/t/{INDEX}", folder).columns(0)
        assert not [*(folder.parent / "copies").glob("*/part")], "nothing was written"


def test_a_local_shard_that_was_changed_is_refused(folder):
    path = folder / "00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not the file that the index names"):
        shelf(str(folder / INDEX), folder).columns(2)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="named pipe"):
        shelf(str(folder / INDEX), folder).columns(2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/passwd", "shards.0.file"),
        ("/etc/passwd", "shards.0.file"),
        ("a/b", "shards.0.file"),
        ("..", "shards.0.file"),
        ("http://169.254.169.254/x", "shards.0.file"),
        ("00002.SAFETENSORS", "differ in case"),
        ("lengths.safetensors", "one name"),
    ],
)
def test_names_in_an_index_are_plain_and_their_own(folder, name, said):
    index = json.loads((folder / INDEX).read_text())
    index["shards"][0]["file"] = name
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=said):
        read_index("x", "x", folder / INDEX)


@pytest.mark.parametrize("wrong", ["huge", "many", "object", "negative", "nothing"])
def test_an_index_that_makes_no_sense_is_refused(folder, wrong):
    index = json.loads((folder / INDEX).read_text())
    if wrong == "huge":
        with open(folder / INDEX, "r+b") as file:
            file.truncate(2**27)
    else:
        index["shards"] = {"many": index["shards"] * 30_000, "nothing": []}.get(wrong, index["shards"])
        index["columns"]["units.at"]["dtype"] = "|O" if wrong == "object" else "<i4"
        index["truncated_samples"] = -1 if wrong == "negative" else 0
        (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match="cannot be used"):
        read_index("x", "x", folder / INDEX)


def test_a_header_that_tells_of_more_than_its_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for shape, end in (([2**40, 2**40], 0), ([4], 16), ([-1, -4], 4)):
        head = json.dumps({"a.b": {"dtype": "I32", "shape": shape, "data_offsets": [0, end]}}).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 8)
        with pytest.raises(Damaged):
            columns_of(path)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(Damaged, match="no safetensors"):
        columns_of(path)


def test_what_lies_beside_an_index_and_what_is_one():
    assert beside(f"https://u:p@h/a/{INDEX}?sig=1", "0.x") == "https://u:p@h/a/0.x"
    assert beside(f"s3://bucket/{INDEX}", "0.x") == "s3://bucket/0.x"
    assert beside(f"/data/t/{INDEX}", "0.x") == "/data/t/0.x"
    assert is_index(f"hf://datasets/o/n@main/{INDEX}") and is_index(INDEX) and not is_index(f"x{INDEX}")

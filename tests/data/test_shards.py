"""Shards: their order is arithmetic with golden values; their rows stay on the disk, their tokens in an entry each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.data.batches import Batches
from bigbatch.data.mixture import joined
from bigbatch.data.shard_tokens import shard_table
from bigbatch.data.shards import ShardOrder
from bigbatch.data.tokens import token_table
from bigbatch.errors import DataError
from bigbatch.files.kinds import find_files
from bigbatch.tasks.catalog import Foreign
from tests.data.tables import Letters, LetterTask, read, token_rows

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=9).filter(any)


def test_golden_orders():
    """These never change: a run resumed with another version continues the same stream."""
    order = ShardOrder([3, 2, 4, 1], seed=0, window=2)
    assert order.ids(0, 10).tolist() == [4, 9, 3, 7, 8, 2, 5, 0, 6, 1]
    assert order.ids(10, 10).tolist() == [5, 8, 0, 1, 6, 7, 2, 3, 4, 9]
    assert ShardOrder([3, 2, 4, 1], seed=1, window=2).ids(0, 10).tolist() == [9, 6, 5, 8, 7, 2, 1, 3, 0, 4]


@given(sizes=SIZES, seed=st.integers(0, 3), window=st.integers(1, 4))
def test_an_epoch_visits_every_row_once_and_a_window_has_whole_shards(sizes, seed, window):
    order, rows = ShardOrder(sizes, seed, window), sum(sizes)
    for epoch in (0, 1):
        ids = order.ids(epoch * rows, rows)
        assert sorted(ids.tolist()) == list(range(rows))
        owners = np.searchsorted(np.cumsum(sizes), ids, side="right")
        kinds = [owner for at, owner in enumerate(owners) if at == 0 or owners[at - 1] != owner]
        if window == 1:
            assert len(kinds) == len(set(kinds)), "one shard at a time"
    assert order.epochs(rows - 1, 2).tolist() == [0, 1]


@given(sizes=SIZES, cuts=st.lists(st.integers(0, 30), min_size=1, max_size=6), first=st.integers(0, 40))
def test_however_it_is_cut_it_is_the_same_stream(sizes, cuts, first):
    whole = ShardOrder(sizes, 3, 2).ids(first, sum(cuts)).tolist()
    order, position, read_ids = ShardOrder(sizes, 3, 2), first, []
    for count in cuts:
        read_ids += order.ids(position, count).tolist()
        position += count
    assert read_ids == whole
    values = np.arange(sum(sizes)) + 1
    assert order.sum_before(position, values) - order.sum_before(first, values) == values[whole].sum()


def test_batches_of_shards_and_far_positions():
    table = joined([token_rows([1, 2, 3]), token_rows([4, 5])])
    batches = Batches(table, seed=2, samples=4)
    order = ShardOrder([3, 2], 2)
    far = 5 * 10**12 + 3
    assert batches.at(far, 1).sample_ids_B.tolist() == order.ids(far, 4).tolist()
    assert batches.tokens_before(7) == table.lengths_B[order.ids(0, 7)].sum()
    assert len(order._rows) <= 2 and len(order._epochs) <= 2


# ---------------------------------------------------------------- rows on the disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        rows = "".join(f"row {number} {row},{'ab'[row % 2]}\n" for row in range(4 + number))
        (tmp_path / "rows").mkdir(exist_ok=True)
        (tmp_path / "rows" / f"{number}.csv").write_text(f"text,label\n{rows}")
    (tmp_path / "rows" / "_SUCCESS").write_text("")
    return tmp_path


def test_a_folder_of_tables_is_its_files_by_name(folder):
    assert [name for name, _ in find_files("rows", folder)] == [f"rows/{number}.csv" for number in range(3)]
    (folder / "rows" / "a.txt").write_text("a text")
    assert [name for name, _ in find_files("rows", folder)] == ["rows"], "a folder of texts is one of texts"


def test_rows_stay_on_the_disk_and_are_those_of_memory(folder):
    whole = read("rows", base=folder)
    parked = read("rows", base=folder, park=folder / "cache" / "rows")
    assert parked.rows.equals(whole.rows) and parked.sources == (0, 4, 9) and whole.sources == ()
    assert [parked.where(row) for row in (0, 4, 14)] == [whole.where(row) for row in (0, 4, 14)] != []
    assert parked.where(4) == "rows/1.csv:2" and parked.shard(1).where(0) == "rows/1.csv:2"
    assert parked.shard(2).rows.equals(whole.rows.slice(9, 6)) and parked.shard(2).digest == parked.digests[2]
    assert parked.shard(1).content_digest == read("rows/1.csv", base=folder).content_digest
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    again = read("rows", base=folder, park=folder / "cache" / "rows")
    assert pool.bytes_allocated() == before, "mapped, not read"
    assert again.content_digest == parked.content_digest and again.rows.equals(parked.rows)


def test_a_changed_file_is_read_anew_alone_and_a_damaged_entry_too(folder):
    root = folder / "cache" / "rows"
    read("rows", base=folder, park=root)
    before = {path: path.stat().st_mtime_ns for path in root.glob("*/rows.arrow")}
    (folder / "rows" / "1.csv").write_text("text,label\nanother,a\n")
    assert len(read("rows", base=folder, park=root)) == 11
    assert len(list(root.glob("*/rows.arrow"))) == 4 and all(
        path.stat().st_mtime_ns == at for path, at in before.items()
    )
    victim = next(iter(before))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    (victim.parent.parent / "more").mkdir()
    assert read("rows", base=folder, park=root).rows.equals(read("rows", base=folder).rows)
    assert not list(root.glob(".writing-*"))
    about = next(root.glob("*/about.json"))
    about.write_text(json.dumps({"digest": 3}))
    assert len(read("rows", base=folder, park=root)) == 11


def test_bad_rows_are_named_and_nothing_of_them_is_kept(folder):
    (folder / "rows" / "1.csv").write_text('text,label\n"open,a\n')
    with pytest.raises(DataError, match=r"rows/1.csv:2"):
        read("rows", base=folder, park=folder / "cache" / "rows")
    assert len(list((folder / "cache" / "rows").glob("*/about.json"))) == 1


# ---------------------------------------------------------------- tokens


def tokens(folder: Path):
    rows = read("rows", base=folder, park=folder / "cache" / "rows")
    said: list[str] = []
    task = LetterTask()
    table, reused = shard_table(
        rows,
        task=Foreign(own=task),
        tokenizer=Letters(),
        cache_dir=folder / "cache" / "tokens",
        key_parts={},
        say=said.append,
    )
    return table, reused, task, said


def test_tokens_of_shards_are_those_of_all_rows_each_shard_by_itself(folder):
    table, reused, task, _ = tokens(folder)
    rows = read("rows", base=folder)
    whole, _ = token_table(
        rows, task=Foreign(own=LetterTask()), tokenizer=Letters(), cache_dir=None, key_parts={}
    )
    assert not reused and table.sources == (0, 4, 9) and len(task.calls) == 15
    for name in ("ids", "reads", "values", "weights", "token_offsets", "unit_offsets"):
        assert np.array_equal(getattr(table, name), getattr(whole, name)), name
    assert isinstance(table.streams["tokens"].columns["ids"], np.memmap)
    again, reused, task, _ = tokens(folder)
    assert reused and not task.calls and np.array_equal(again.ids, table.ids)


def test_a_new_shard_is_the_only_one_that_is_tokenised(folder):
    tokens(folder)
    (folder / "rows" / "9.csv").write_text("text,label\nnew,a\nrows,b\n")
    table, reused, task, _ = tokens(folder)
    assert not reused and len(task.calls) == 2 and table.sources == (0, 4, 9, 15) and len(table) == 17


def test_a_kill_loses_one_shard_and_a_shard_may_have_no_rows(folder, monkeypatch):
    (folder / "rows" / "0a.csv").write_text("text,label\n")

    def encode(self, row, tokenizer):
        if row["text"] == "row 2 3":
            raise KeyboardInterrupt
        return whole(self, row, tokenizer)

    whole = LetterTask.encode
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LetterTask, "encode", encode)
        tokens(folder)
    table, _, task, _ = tokens(folder)
    assert table.sources == (0, 4, 4, 9) and len(task.calls) == 6, "the last shard alone"
    assert not list((folder / "cache" / "tokens").glob(".writing-*"))


def test_a_damaged_entry_of_all_is_joined_again(folder):
    table, *_ = tokens(folder)
    ids = table.ids.copy()
    entries = [
        path
        for path in (folder / "cache" / "tokens").iterdir()
        if "sources" in (path / "header.json").read_text()
    ]
    [entry] = entries
    with (entry / "tokens.ids.bin").open("r+b") as file:
        file.write(b"\xff")
    again, reused, task, said = tokens(folder)
    assert not reused and not task.calls and "joining its shards again" in said[0]
    assert np.array_equal(again.ids, ids)

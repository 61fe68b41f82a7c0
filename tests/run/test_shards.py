"""A run on a folder of shards: its order, a resume, tokens made ahead of it, what memory holds, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from bigbatch.build.inputs import Live, read_inputs
from bigbatch.commands import tokenize
from bigbatch.data.shards import ShardOrder
from bigbatch.errors import MachineError, RecipeError
from bigbatch.launch.parts import in_parts
from bigbatch.recipe.load import load_recipe
from bigbatch.tasks.catalog import task_from_recipe
from tests.jobs import exhaust, lines
from tests.shards import shard_job, start

SIZES = [4 + number % 3 for number in range(11)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard_job(tmp_path_factory.mktemp("shards"), SIZES)


def test_a_run_on_shards_goes_on_in_its_order_and_begins_with_tokens_made_before(
    folder, tmp_path, monkeypatch
):
    tokenize(folder / "job.yaml", out=tmp_path / "cache", part=(1, 2))
    entries = len(list((tmp_path / "cache" / "tokens").glob("*/header.json")))
    assert entries == len(SIZES) // 2
    assert f"train with run.cache={tmp_path / 'cache'}" in tokenize(
        folder / "job.yaml", out=tmp_path / "cache"
    )
    made = sorted(path.name for path in (tmp_path / "cache" / "tokens").iterdir())
    assert len(made) == len(SIZES) + 2, "each shard, all of them, validation"

    def never(*_: object) -> None:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patch:
        patch.setattr("bigbatch.tasks.classify.Classify.encode_batch", never)
        run = start(folder, "ahead", **{"run.cache": str(tmp_path / "cache")})
    assert run._parts is not None and run.plan.choices["order"].value == "shards"
    order = ShardOrder(SIZES, 0)
    for update in (1, 5, 13):
        wanted = order.ids(8 * (update - 1), 8).tolist()
        assert run._parts.batches.at(8 * (update - 1), update).sample_ids_B.tolist() == wanted
    assert isinstance(run._parts.train.streams["tokens"].columns["ids"], np.memmap)
    exhaust(run)
    with start(folder, "stopped") as stopped:
        for record in stopped:
            if record.kind == "update" and record.step == 6:
                break
    exhaust(start(folder, "stopped"))
    straight, broken = (
        [(line["loss"], line["grad_norm"]) for line in lines(folder / name, "update")]
        for name in ("ahead", "stopped")
    )
    assert straight == broken and len(straight) == 14
    whats = [
        json.loads((folder / name / "identity.json").read_text())["what"] for name in ("ahead", "stopped")
    ]
    assert whats[0] == whats[1], "where tokens lie is no part of what is computed"
    assert sorted(path.name for path in (tmp_path / "cache" / "tokens").iterdir()) == made, (
        "nothing was made anew"
    )


def test_memory_holds_the_rows_of_one_shard(tmp_path):
    """32 shards of 1 MB: whole, all of them are in memory; as shards, a few at most."""
    (tmp_path / "rows").mkdir()
    for number in range(32):
        table = pa.table(
            {"text": [f"{number} {row} " + "x" * 990 for row in range(1000)], "label": ["a", "b"] * 500}
        )
        pa.csv.write_csv(table, tmp_path / "rows" / f"{number}.csv")
    peaks = {}
    for shuffle in ("full", "shards"):
        recipe = load_recipe(
            {
                "data": {"train": str(tmp_path / "rows"), "shuffle": shuffle},
                "run": {"root": str(tmp_path)},
                "task": {"name": "classify", "labels": ["a", "b"]},
            }
        )
        before = pa.default_memory_pool()
        pool = pa.proxy_memory_pool(before)
        pa.set_memory_pool(pool)
        try:
            inputs = read_inputs(recipe, task_from_recipe(recipe), Live())
            assert len(inputs.train) == 32_000
            peaks[shuffle] = (pool.max_memory(), pool.bytes_allocated())
            del inputs
        finally:
            pa.set_memory_pool(before)
    assert peaks["full"][1] > 30e6 and peaks["shards"][1] < 1e6
    assert peaks["shards"][0] < 8e6, "of one shard, as it is read and written"


def test_what_shards_cannot_do_is_refused(folder, tmp_path):
    for keys, what in {
        "data.validation=0.1": "name validation files",
        "data.train=[{path: rows, share: 1}]": "with shares (train) is not built",
    }.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(folder / "job.yaml", [keys])
        assert what in str(caught.value)


def test_parts_run_side_by_side_and_a_failed_one_is_said(tmp_path, monkeypatch):
    program = tmp_path / "python"
    said = chr(34) + "$*" + chr(34)
    program.write_text(
        f'#!/bin/sh\nfor word in "$@"; do part=$word; done\necho {said} > "{tmp_path}/${{part%/*}}.said"\n[ "$part" != 2/3 ]\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    in_parts(["tokenize", "r.yaml"], ["data.train=https://h/a?sig=1"], 2, {})
    said = [(tmp_path / f"{number}.said").read_text() for number in range(2)]
    assert all(
        "tokenize r.yaml @changes --part" in words and "sig" not in words.split(" [")[0] for words in said
    )
    with pytest.raises(MachineError, match="1 of 3 processes ended with code 1"):
        in_parts(["tokenize", "r.yaml"], [], 3, {})

"""Token ids that were made elsewhere: padding without a mask, ids and lengths that the model cannot take."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bigbatch
from bigbatch.data.tables import from_rows
from bigbatch.errors import BigbatchError, DataError
from bigbatch.tasks.given import GivenTokens, given_tokens
from tests.jobs import events, exhaust, lines, start
from tests.models import tiny
from tests.split import rows_of

ROWS = rows_of("single", 24, longest=20)
PADDED = [{**row, "input_ids": row["input_ids"] + [0] * (20 - len(row["input_ids"]))} for row in ROWS]


@pytest.mark.parametrize(
    ("first", "last", "ids", "kept"),
    [
        (False, False, [7, 8, 0, 0], [1, 1, 0, 0]),
        (False, False, [0, 0, 7, 0, 8], [0, 0, 1, 1, 1]),
        (False, False, [0, 0], [0, 0]),
        (False, False, [7, 8], [1, 1]),
        (False, True, [7, 8, 0, 0, 0], [1, 1, 1, 0, 0]),
        (False, True, [7, 8, 0], [1, 1, 1]),
        (True, True, [0, 0, 7, 0, 0], [0, 1, 1, 1, 0]),
        (False, False, [], []),
    ],
)
def test_padding_at_either_end(first, last, ids, kept):
    given = GivenTokens(rows=9, longest=None, pad_id=0, keeps_first=first, keeps_last=last)
    neighbours = [[5, 0], ids, [0, 6]]
    lengths = np.array([len(each) for each in neighbours])
    found = given.masks(np.concatenate([np.array(each, int) for each in neighbours]), lengths)
    assert found[2 : 2 + len(ids)].astype(int).tolist() == kept


def test_a_mask_that_is_given_is_believed_row_by_row():
    rows = [{"input_ids": [5, 0], "attention_mask": [1, 1]}, {"input_ids": [5, 0]}, {"input_ids": [5, 6]}]
    given = GivenTokens(rows=9, longest=None, pad_id=0)
    table = from_rows(rows)
    found, padded = given.table(replace(table, tokenised=True))
    assert padded == 1
    assert found.rows.column("attention_mask").to_pylist() == [[1, 1], [1, 0], [1, 1]]
    assert [given.row(row).get("attention_mask") for row in rows] == [[1, 1], [1, 0], None]


def test_an_end_mark_that_is_the_padding_too():
    given = given_tokens(tiny("gpt2", pad_token_id=2), None, 64)  # bos 1, eos 2
    assert (given.keeps_first, given.keeps_last) == (False, True)
    assert given_tokens(tiny("bert"), None, 64).keeps_last is False


def sources(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows in every form that rows of token ids come in."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "list": rows,
        "datasets": datasets.Dataset.from_list(rows),
        "parquet": str(folder / "rows.parquet"),
        "jsonl": str(folder / "rows.jsonl"),
    }


@pytest.mark.parametrize("form", ["list", "datasets", "parquet", "jsonl"])
def test_padding_without_a_mask_is_never_trained_on(tmp_path, form):
    """The same losses as without the padding, said in a note; evaluate and predict alike."""
    clean = exhaust(start(tmp_path / "clean", tiny("bert"), rows=ROWS, validation=ROWS))
    given = sources(tmp_path, PADDED)[form]
    run = exhaust(start(tmp_path / "r", tiny("bert"), rows=given, validation=given))
    for kind in ("update", "eval"):
        expected = [line["loss"] for line in lines(tmp_path / "clean", kind)]
        assert [line["loss"] for line in lines(tmp_path / "r", kind)] == pytest.approx(expected, rel=1e-6)
    said = [event["why"] for event in events(tmp_path / "r", "note")]
    padded = sum(len(row["input_ids"]) < 20 for row in ROWS)
    assert any(f"train: {padded} of 24 rows of token ids have padding (id 0)" in each for each in said)
    found, expected = (bigbatch.evaluate(tmp_path / "r", rows) for rows in (given, ROWS))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    if form == "list":
        for one, other in zip(run.predict(PADDED), clean.predict(ROWS), strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], rel=1e-4)


@pytest.mark.parametrize("family", ["mpnet", "roberta"])
@pytest.mark.parametrize("pad", [0, 1])
def test_positions_that_begin_behind_the_padding(tmp_path, family, pad):
    """66 rows of positions: MPNet counts from 2 whatever its configuration calls padding, RoBERTa from pad + 1."""
    most = 64 if family == "mpnet" or pad == 1 else 65
    module = tiny(family, pad_token_id=pad)

    def rows(length: int) -> list[dict[str, Any]]:
        return [{"input_ids": [5 + place] * length, "labels": place % 3} for place in range(6)]

    keys = {"batch": 6, "updates": 1}
    exhaust(start(tmp_path / "r", module, rows=rows(most), set=keys))
    words = re.escape(f"{most + 1} tokens, but max_length is {most}")
    with pytest.raises(DataError, match=words):
        start(tmp_path / "s", tiny(family, pad_token_id=pad), rows=rows(most + 1), set=keys)
    for use in (bigbatch.predict, bigbatch.evaluate):
        use(tmp_path / "r", rows(most))
        with pytest.raises(BigbatchError, match=words):
            use(tmp_path / "r", rows(most + 1))


@pytest.mark.parametrize("use", [bigbatch.predict, bigbatch.evaluate])
def test_ids_without_an_embedding_are_refused_everywhere(tmp_path, use):
    exhaust(start(tmp_path / "r", tiny("bert")))
    with pytest.raises(DataError, match="token id 100, but the model's embedding has 100 rows"):
        use(tmp_path / "r", [*ROWS[:3], {"input_ids": [5, 100], "labels": 0}])


@pytest.mark.parametrize("use", [bigbatch.predict, bigbatch.evaluate])
@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        (
            {"token_type_ids": [0, 0, 5]},
            "token_type_ids",
            "found token type 5, but the model's embedding has 2 rows",
        ),
        ({"input_ids": [2, -6, 3]}, "input_ids", "found -6; expected integers from 0"),
        ({"attention_mask": [1]}, "attention_mask", "found 1 entries for 3 input_ids"),
    ],
)
def test_malformed_rows_are_named_by_their_row(tmp_path, use, change, key, what):
    exhaust(start(tmp_path / "r", tiny("bert")))
    row = {"input_ids": [2, 6, 3], "token_type_ids": [0, 0, 0], "attention_mask": [1, 1, 1], "labels": 1}
    with pytest.raises(DataError, match=f"row 2: {key}: {what}"):
        list(use(tmp_path / "r", [row, {**row, **change}], device="cpu"))


@pytest.mark.parametrize("tokens_first", [True, False])
def test_rows_of_text_beside_rows_of_token_ids_are_refused(tmp_path, tokens_first):
    tokens = [{"input_ids": [5, 6, 7], "labels": place % 2} for place in range(4)]
    texts = [{"text": "good", "label": place % 2} for place in range(4)]
    train, other = (tokens, texts) if tokens_first else (texts, tokens)
    with pytest.raises(DataError, match=r"row 1: found .*, but the training rows are .*; use one kind"):
        bigbatch.train(tiny("bert"), train, other, run_dir=str(tmp_path / "r"), set={"updates": 1})


def test_training_on_exclusive_multi_hot_lists_needs_no_second_form(tmp_path):
    rows = [{"input_ids": [5, 6, 7], "labels": [place % 2, 1 - place % 2]} for place in range(4)]
    task = {"task.name": "classify", "task.kind": "multi", "updates": 1, "batch": 4}
    run = start(tmp_path / "r", tiny("bert"), rows=rows, set=task)
    exhaust(run)
    with pytest.raises(DataError, match="multi-hot, or class ids?"):
        bigbatch.evaluate(tmp_path / "r", rows, device="cpu")

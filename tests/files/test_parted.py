"""Rows dealt to splits: each once, what belongs together on one side, and the shares as near as groups allow."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bigbatch.errors import DataError, UsageError
from bigbatch.files.parted import Parting, split
from bigbatch.files.similar import groups_of_alike


def write(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parts(folder):
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.iterdir())
    }


def protein(draws, length=60):
    return "".join(draws.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))


def changed(draws, text, share):
    return "".join(
        draws.choice(list("ACDEFGHIKLMNPQRSTVWY")) if draws.random() < share else letter for letter in text
    )


def test_families_stay_together(tmp_path):
    """Forty families of five, each a sequence with 3 % of its letters changed; strangers have hardly a stretch in common."""
    draws = np.random.default_rng(0)
    rows = []
    for family in range(40):
        first = protein(draws)
        rows += [{"id": f"{family}-{each}", "text": changed(draws, first, 0.03)} for each in range(5)]
    said: list[str] = []
    source = write(tmp_path, [rows[at] for at in draws.permutation(len(rows))])
    found = split(
        source, tmp_path / "out", Parting(by="similarity", letters=3, threshold=0.3), say=said.append
    )
    assert found == {"train": 160, "validation": 20, "test": 20}
    assert said == ["200 rows in 40 groups, the largest of 5"]
    where = {row["id"]: name for name, part in parts(tmp_path / "out").items() for row in part}
    assert len(where) == 200
    assert all(len({where[f"{family}-{each}"] for each in range(5)}) == 1 for family in range(40))


def test_alike_is_exact():
    """Of 5 stretches of 2 letters 3 are common: 3 / 7 of all."""
    pair = ["ABCDEF", "ABCDXY"]
    assert groups_of_alike(pair, letters=2, threshold=3 / 7).tolist() == [0, 0]
    assert groups_of_alike(pair, letters=2, threshold=3 / 7 + 1e-9).tolist() == [0, 1]
    assert groups_of_alike(["", "a c", "AC", "", "Q"], letters=5, threshold=1.0).tolist() == [0, 1, 1, 0, 4]


USERS = [
    {"user": user, "at": str(at), "item": f"{user}{at}"} for at in (10, 9, 100) for user in ("a", "b", "c")
]


def test_the_last_of_each(tmp_path):
    rows = [*USERS, {"user": "d", "at": "1", "item": "d1"}, {"user": None, "at": "2", "item": "?"}]
    found = split(write(tmp_path, rows), tmp_path / "out", Parting(by="last", column="user", time="at"))
    got = {name: sorted(row["item"] for row in part) for name, part in parts(tmp_path / "out").items()}
    assert got == {
        "test": ["a100", "b100", "c100"],
        "validation": ["a10", "b10", "c10"],
        "train": ["?", "a9", "b9", "c9", "d1"],
    }
    assert found == {"train": 5, "validation": 3, "test": 3}


def test_the_latest(tmp_path):
    rows = [{"at": at} for at in (5, 1, 9, 3, 7, 0, 8, 2, 6, 4)]
    split(
        write(tmp_path, rows),
        tmp_path / "out",
        Parting(by="time", time="at", validation=0.2, test=0.1),
        suffix=".csv",
    )
    found = {
        name: (tmp_path / "out" / f"{name}.csv").read_text().split()[1:] for name in ("validation", "test")
    }
    assert found == {"validation": ["7", "8"], "test": ["9"]}


def test_values_stay_together_and_rows_are_dealt_evenly(tmp_path):
    source = write(tmp_path, USERS * 20)
    split(source, tmp_path / "out", Parting(by="column", column="user", validation=0.3, test=0.3))
    assert all(len({row["user"] for row in part}) == 1 for part in parts(tmp_path / "out").values())
    assert split(source, tmp_path / "rows", Parting()) == {"train": 144, "validation": 18, "test": 18}
    split(source, tmp_path / "again", Parting())
    assert parts(tmp_path / "rows") == parts(tmp_path / "again")


def test_what_is_refused(tmp_path):
    source = write(tmp_path, USERS)
    with pytest.raises(UsageError, match="--column: none given"):
        split(source, tmp_path / "out", Parting(by="column"))
    with pytest.raises(DataError, match="no column 'usr'; did you mean user"):
        split(source, tmp_path / "out", Parting(by="column", column="usr"))
    with pytest.raises(UsageError, match="they leave nothing"):
        split(source, tmp_path / "out", Parting(validation=0.5, test=0.5))
    with pytest.raises(DataError, match="too few groups for these shares"):
        split(write(tmp_path, USERS[::3]), tmp_path / "out", Parting(by="column", column="user"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "test.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not overwritten"):
        split(source, tmp_path / "out", Parting())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test.jsonl"]

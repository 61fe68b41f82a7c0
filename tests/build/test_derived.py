"""Columns that the first weights compute once: before update 1, durable, and never again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bigbatch.build import derived as derived_room
from bigbatch.data.shares import share_of
from bigbatch.data.sides import CHOSEN, PAIR, REJECTED, SIDE, sequence_starts
from bigbatch.errors import CheckpointError
from bigbatch.store import columns
from tests.jobs import differing, document, exhaust, lines, start, weights
from tests.preferences import decoder, preferences

ROWS, HELD_OUT = preferences(40), preferences(13, seed=1)
KEYS = {
    "task": {"name": "prefer", "beta": 0.5},
    "batch": 12,
    "plan.micro_tokens": 96,
    "plan.packing": "packed",
}


def begun(folder, **options):
    keys = {**KEYS, **options.pop("set", {})}
    return start(folder, decoder(dropout=0.1), rows=ROWS, validation=HELD_OUT, set=keys, **options)


@pytest.fixture
def whole(tmp_path):
    """A run that nothing disturbed."""
    return exhaust(begun(tmp_path / "whole"))


def test_the_reference_is_what_the_first_weights_say_in_eval_mode(whole, tmp_path):
    header = document(tmp_path / "whole", "derived/reference.json")
    assert {name: part["samples"] for name, part in header["splits"].items()} == {
        "train": 80,
        "validation": 26,
    }
    found = np.fromfile(tmp_path / "whole/derived/reference.bin", "<f8")
    model, expected = decoder(dropout=0.1), []
    with torch.no_grad():
        for row in [*ROWS, *HELD_OUT]:
            for side in ("chosen", "rejected"):
                ids = torch.tensor([row["prompt"] + row[side]])
                logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
                places = range(len(row["prompt"]) - 1, ids.shape[1] - 1)
                expected.append(
                    sum(float(logp[at, token]) for at, token in zip(places, row[side], strict=True))
                )
    assert np.abs(found - expected).max() < 1e-4


def test_the_first_loss_is_that_of_no_preference(whole, tmp_path):
    """Without dropout the model is its own reference."""
    exhaust(start(tmp_path / "still", decoder(), rows=ROWS, validation=HELD_OUT, set=KEYS))
    assert lines(tmp_path / "still", "update")[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    last = lines(tmp_path / "still", "eval")[-1]
    assert last["loss"] < np.log(2) + 0.3
    assert {"accuracy", "margin"} <= last.keys()


def test_a_resume_reads_it_back(whole, tmp_path):
    kept = weights(whole)
    folder = tmp_path / "cut"
    run = begun(folder, set={"run.checkpoint_every": "2 updates"})
    with run:
        for record in run:
            if record.kind == "update" and record.step == 2:
                break
    before = (folder / "derived/reference.bin").stat().st_mtime_ns
    again = exhaust(begun(folder, set={"run.checkpoint_every": "2 updates"}))
    assert (folder / "derived/reference.bin").stat().st_mtime_ns == before
    assert not differing(weights(again), kept)


class Killed(BaseException):
    """As if the process had gone here."""


@pytest.mark.parametrize("where", ["computing", "numbers", "header", "identity"])
def test_a_kill_before_update_1_costs_no_bit(whole, tmp_path, monkeypatch, where):
    """Whatever is there is taken if it is whole, else computed again by the same weights."""
    kept, folder = weights(whole), tmp_path / "cut"
    module, name = {
        "computing": (derived_room, "sums_of"),
        "numbers": (columns, "atomic_write_bytes"),
        "header": (columns, "atomic_write_json"),
        "identity": (derived_room, "note_derived"),
    }[where]

    def die(*_args, **_options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, name, die)
        with pytest.raises(Killed):
            begun(folder)
    assert not lines(folder) if (folder / "metrics.jsonl").exists() else True
    assert (folder / "derived/reference.json").exists() == (where == "identity")
    again = exhaust(begun(folder))
    assert not differing(weights(again), kept)
    assert document(folder, "identity.json")["derived"].keys() == {"reference"}


def test_replicas_take_whole_pairs(tmp_path):
    folder = tmp_path / "apart"
    run = begun(folder, set={"sync": {"replicas": 3, "period": 2}})
    parts = run._parts
    batch = parts.batches.at(24, 3)
    shares = [share_of(batch, number, 3) for number in range(3)]
    assert [share.samples for share in shares] == [4, 4, 4]
    for share in shares:
        pairs = share.targets.values[:, PAIR]
        assert len(np.unique(pairs)) == 4
        assert (share.table.groups == np.repeat(np.arange(4), 2)).all()
        starts = sequence_starts(share.targets.values)
        assert (share.targets.values[starts, SIDE] == np.tile([CHOSEN, REJECTED], 4)).all()
    exhaust(run)
    assert len(lines(folder, "update")) == 4


@pytest.mark.parametrize("damage", ["torn", "altered", "another", "lost"])
def test_what_was_damaged_is_refused_in_words(tmp_path, damage):
    folder = tmp_path / "run"
    run = begun(folder)
    with run:
        for record in run:
            if record.kind == "update":
                break
    numbers, header = folder / "derived/reference.bin", folder / "derived/reference.json"
    content = numbers.read_bytes()
    if damage == "torn":
        numbers.write_bytes(content[:-1])
    elif damage == "altered":
        numbers.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    elif damage == "another":
        header.write_text(json.dumps({**json.loads(header.read_text()), "sha256": "0"}))
    else:
        numbers.unlink()
    with pytest.raises(CheckpointError, match="reference.*restore the files") as found:
        begun(folder)
    assert "derived" in str(found.value)

"""Columns that the first weights compute once: before update 1, durable, and never again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bigbatch.errors import CheckpointError
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

"""Samples, micro-batches, updates and splits in which nothing counts: no token to predict, no label, weights of 0."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import bigbatch
from bigbatch.errors import DataError
from bigbatch.step.apart import Apart
from tests.jobs import document, events, exhaust, lines, start, weights
from tests.language import MASK, documents, language_parts, model_of, train_language_reference
from tests.models import VOCABULARY, tiny, tiny_folder
from tests.split import assert_equal, train_split

SPECIALS = [{"input_ids": [MASK] * length} for length in (3, 5, 4, 6)]
"""Rows that a masked model can learn nothing from."""
MLM = {"name": "mlm", "mask_id": MASK}


def mostly_special(count: int) -> list[dict[str, Any]]:
    """One row in three has ordinary tokens."""
    ordinary = documents(count, seed=3, longest=20)
    return [row for place, each in enumerate(ordinary) for row in (each, *SPECIALS[place % 3 :][:2])]


def tagged(count: int, *, every: int) -> list[dict[str, Any]]:
    """Rows of token ids whose labels are all -100 but in one row of `every`."""
    random = np.random.default_rng(0)
    rows = []
    for place in range(count):
        ids = random.integers(5, VOCABULARY, 4 + place % 7).tolist()
        known = every and place % every == 0
        rows.append(
            {
                "input_ids": ids,
                "labels": random.integers(3, size=len(ids)).tolist() if known else [-100] * len(ids),
            }
        )
    return rows


def unlabelled(count: int, *, every: int) -> list[dict[str, Any]]:
    """Rows to classify that have a label in one of `every`."""
    return [
        {"input_ids": [5 + place % 50, 7, 9], "labels": place // every % 3 if place % every == 0 else -100}
        for place in range(count)
    ]


JOBS: dict[str, tuple[Any, list[dict[str, Any]], dict[str, Any]]] = {
    "mlm": (lambda: model_of("mlm"), mostly_special(16), MLM),
    "tag": (lambda: tiny("bert", head="tokens", num_labels=3), tagged(48, every=3), {"name": "tag", "labels": ["a", "b", "c"], "scheme": "none"}),
    "classify": (lambda: tiny("bert"), unlabelled(48, every=3), {"name": "classify", "labels": ["a", "b", "c"]}),
}  # fmt: skip


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", JOBS)
def test_updates_without_anything_to_learn_are_counted_and_change_nothing(tmp_path, name, batch, lazy):
    module, rows, task = JOBS[name]
    keys = {
        "task": task, "updates": 16, "batch": batch, "guard.patience": 2, "plan.packing": "packed",
        "plan.lazy": lazy, "run.evaluate_every": "end",
    }  # fmt: skip
    run = start(tmp_path / "r", module(), rows=rows, set=keys)
    before, records = weights(run), []
    with run:
        for record in run:
            if record.kind != "update":
                continue
            after = weights(run)
            moved = any(not torch.equal(after[key], before[key]) for key in before.keys() & after.keys())
            assert moved != record.get("empty", False), (
                "an update that learns nothing leaves weights and optimiser alone"
            )
            before = after
            records.append(record.to_dict())
    assert run.status == "finished"
    assert [record["samples"] for record in records] == [batch * update for update in range(1, 17)]
    assert all(later["lr"] < earlier["lr"] for earlier, later in itertools.pairwise(records[2:]))
    found = [record for record in records if record.get("empty", False)]
    assert 2 < len(found) < 16
    for record in found:
        assert record["loss"] is None and record["grad_norm"] is None and not record["skipped"]
        assert record["loss.cross_entropy"] is None and "nonfinite" not in record
    told = events(tmp_path / "r", "nothing_to_learn")
    assert [event["step"] for event in told] == [record["step"] for record in found]
    assert not events(tmp_path / "r", "nonfinite")


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_a_micro_batch_without_units_adds_nothing_to_its_batch(packing):
    """Micro-batches of one or two samples, against the oracle's whole batch."""
    rows, module = mostly_special(20), model_of("mlm").double()
    parts = language_parts(module, rows, {"name": "mlm"}, micro_tokens=8, packing=packing)
    expected = train_language_reference(module, parts, rows, {"name": "mlm"}, 4)
    found = train_split(parts, 4)
    assert min(found.micro_batches) > 10
    assert_equal(found, expected, torch.float64)


@pytest.mark.parametrize("rows", [mostly_special(8), SPECIALS], ids=["some", "none"])
def test_a_split_without_units_has_no_figures(tmp_path, rows):
    keys = {"task": MLM, "batch": 4, "updates": 4, "run.evaluate_every": "2 updates"}
    exhaust(start(tmp_path / "r", model_of("mlm"), rows=mostly_special(8), validation=rows, set=keys))
    found = lines(tmp_path / "r", "eval")
    assert len(found) == 2
    for line in found:
        known = [line[name] is not None for name in ("loss", "perplexity", "accuracy")]
        assert known == [rows is not SPECIALS] * 3 and "nonfinite" not in line
    notes = [event["why"] for event in events(tmp_path / "r", "note")]
    assert any("validation: nothing in it counts" in note for note in notes) == (rows is SPECIALS)
    result = document(tmp_path / "r", "result.json")
    assert (result["best"] is None) == (rows is SPECIALS)


@pytest.mark.parametrize("name", JOBS)
def test_nothing_at_all_to_learn_from_is_an_error_before_the_first_update(tmp_path, name):
    module, _, task = JOBS[name]
    rows = {"mlm": SPECIALS, "tag": tagged(6, every=0), "classify": [{"input_ids": [5], "labels": -100}] * 6}
    with pytest.raises(DataError, match="(nothing|anything) to learn"):
        start(tmp_path / "r", module(), rows=rows[name], set={"task": task, "batch": 2, "updates": 2})
    assert not (tmp_path / "r").exists()


def test_replicas_without_a_unit_stand_still(tmp_path):
    """Two replicas that share batches of two: in some updates one has nothing to learn from, in some both."""
    keys = {
        "task": MLM, "updates": 12, "batch": 2, "guard.patience": 1, "sync": {"replicas": 2, "period": 5},
        "plan.packing": "packed", "schedule": {"name": "constant", "warmup": 0},
    }  # fmt: skip
    run = start(tmp_path / "r", model_of("mlm"), rows=mostly_special(16), set=keys)
    assert run._parts is not None and isinstance(run._parts.strategy, Apart)
    parts, apart = run._parts, run._parts.strategy.replicas
    moves = []
    with run:
        held = [[tensor.clone() for tensor in replica.tensors] for replica in apart.held]
        for record in run:
            if record.kind != "update":
                continue
            now = [[tensor.clone() for tensor in replica.tensors] for replica in apart.held]
            moved = [not all(map(torch.equal, *pair)) for pair in zip(held, now, strict=True)]
            batch = parts.batches.at(2 * record.step - 2, record.step)
            learns = [bool(targets.weights.any()) for targets in apart.targets(batch)]
            if record.step % 5 and record.step != 12:  # no meeting
                assert moved == learns
            assert record.get("empty", False) == (not any(learns)) and (record["loss"] is None) == record.get(
                "empty", False
            )
            moves.append(tuple(learns))
            held = now
    assert run.status == "finished" and {(False, False), (True, False)} <= {
        tuple(sorted(m)[::-1]) for m in moves
    }


def test_a_ramp_by_noise_and_its_measurements_pass_over_updates_without_units(tmp_path):
    keys = {
        "task": MLM, "samples": 48, "batch": {"samples": 8, "ramp": {"from": 2, "by": "noise"}},
        "scale.every": "1 updates", "plan.packing": "packed",
    }  # fmt: skip
    run = exhaust(start(tmp_path / "r", model_of("mlm"), rows=mostly_special(16), set=keys))
    found = lines(tmp_path / "r", "update")
    empty = [line for line in found if line.get("empty", False)]
    assert run.status == "finished" and found[-1]["samples"] >= 48 and empty
    assert not any("noise_scale" in line for line in empty)


def test_weights_of_nothing_are_nothing_to_learn_from(tmp_path):
    """A class that weighs 0: batches of it alone, which have units and a denominator of 0."""
    rows = [{"input_ids": [5 + place, 7], "labels": place % 2} for place in range(8)]
    keys = {
        "task": {"name": "classify", "labels": ["a", "b"]}, "loss": {"class_weights": {"a": 0.0}},
        "batch": 1, "updates": 8, "guard.patience": 1,
    }  # fmt: skip
    run = exhaust(start(tmp_path / "r", tiny("bert", num_labels=2), rows=rows, set=keys))
    assert [line.get("empty", False) for line in lines(tmp_path / "r", "update")].count(True) == 4
    assert run.status == "finished"


def test_evaluate_tells_why_there_is_no_figure(tmp_path):
    keys = {"task": MLM, "batch": 4, "updates": 1}
    module = model_of("mlm")
    exhaust(start(tmp_path / "r", module, rows=mostly_special(8), set=keys))
    found = bigbatch.evaluate(tmp_path / "r", SPECIALS)
    assert found["loss"] is None and found["perplexity"] is None and found["samples"] == 4
    assert "nothing in this split counts" in found["undefined"]["loss"]


def test_documents_of_one_token_have_no_figures(tmp_path):
    keys = {"task": {"name": "clm"}, "batch": 4, "updates": 2, "data.max_length": 16}
    held_out = [{"input_ids": [5]}, {"input_ids": [6]}]
    exhaust(start(tmp_path / "r", model_of("clm"), rows=documents(8), validation=held_out, set=keys))
    assert [line["loss"] for line in lines(tmp_path / "r", "eval")] == [None]
    with pytest.raises(DataError, match="anything to learn"):
        start(tmp_path / "s", model_of("clm"), rows=held_out, set={**keys, "batch": 2})


def test_predict_of_texts_without_a_mask_names_no_tokens(tmp_path):
    """Alone, in a window of such texts, and beside one that has a mask."""
    run = bigbatch.train(
        str(tiny_folder(tmp_path / "model", head="masked")), [{"text": "the flight was late"}] * 8, task="mlm",
        epochs=1, batch_size=4, run_dir=tmp_path / "r",
    )  # fmt: skip
    plain = {"text": "no help today", "masks": []}
    assert bigbatch.predict(tmp_path / "r", ["no help today"]) == [plain]
    assert run.predict(["no help today"] * 70) == [plain] * 70
    first, second = run.predict(["no help today", "no [MASK] today"])
    assert first == plain and len(second["masks"]) == 1 and len(second["masks"][0]) == 5

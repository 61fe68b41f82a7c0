"""The promise from outside: what a whole run writes down is what the oracle computes, also after a kill."""

from __future__ import annotations

import json

import pytest
import torch

from bigbatch.data.order import epoch_order
from tests.jobs import HELD_OUT, differing, events, exhaust, lines, start, weights
from tests.models import tiny
from tests.reference import reference_updates
from tests.split import rows_of

UPDATES, BATCH = 6, 48
ROWS = rows_of("single", 120, longest=40, seed=3)
CLASS_WEIGHTS = {"0": 0.25, "1": 2.0, "2": 1.0}
KEYS = {
    "updates": UPDATES,
    "batch": BATCH,
    "plan.micro_tokens": 256,
    "optimizer.lr": 1e-3,
    "clip": 0.1,
    "loss.class_weights": CLASS_WEIGHTS,
    "run.evaluate_every": "1 updates",
    "run.checkpoint_every": "2 updates",
}


def oracle(dtype: torch.dtype) -> list[tuple[float, float]]:
    """Loss and gradient norm of each update: order, weights and schedule written out once more."""
    order = [*epoch_order(0, 0, len(ROWS)), *epoch_order(0, 1, len(ROWS)), *epoch_order(0, 2, len(ROWS))]
    weight = list(CLASS_WEIGHTS.values())
    batches = [
        [
            {"ids": row["input_ids"], "target": row["labels"], "weight": weight[row["labels"]]}
            for row in (ROWS[number] for number in order[update * BATCH : (update + 1) * BATCH])
        ]
        for update in range(UPDATES)
    ]
    lrs = [1e-3 * (1 - (update + 0.5) / UPDATES) for update in range(UPDATES)]
    model = tiny("bert", initializer_range=0.05).to(dtype).train()
    return reference_updates(
        model, batches, kind="single", pad_id=0, lrs=lrs, clip=0.1, weight_decay=0.01, eps=1e-8
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_the_journal_holds_what_the_oracle_computes(tmp_path, packing, dtype, tolerance):
    model = tiny("bert", initializer_range=0.05).to(dtype)
    keys = {**KEYS, "plan.packing": packing, "schedule.warmup": 0, "optimizer.weight_decay": 0.01}
    exhaust(start(tmp_path / "r", model, rows=ROWS, validation=HELD_OUT, set=keys))
    updates = lines(tmp_path / "r", "update")
    assert [line["step"] for line in updates] == list(range(1, UPDATES + 1))
    for line, (loss, norm) in zip(updates, oracle(dtype), strict=True):
        assert norm > 0.1
        assert line["loss"] == pytest.approx(loss, rel=tolerance, abs=0)
        assert line["grad_norm"] == pytest.approx(norm, rel=tolerance, abs=0)


class Killed(Exception):
    """Stands for the end of the process: nothing is saved."""


@pytest.mark.parametrize("kill_at", [1, 3, 4])
def test_after_a_kill_the_same_bits_and_one_record_an_update(tmp_path, kill_at):
    """Dropout and shuffling on, an evaluation after every update, a checkpoint after every other one."""

    def run(name: str):
        return start(tmp_path / name, tiny("bert", dropout=0.1), rows=ROWS, validation=HELD_OUT, set=KEYS)

    whole = exhaust(run("whole"))
    with pytest.raises(Killed), run("killed") as killed:
        for record in killed:
            if record.kind == "update" and record.step == kill_at:
                raise Killed
    again = exhaust(run("killed"))
    figures = [
        [
            {name: line[name] for name in ("step", "loss", "grad_norm", "lr", "samples", "tokens")}
            for line in lines(tmp_path / name, "update")
        ]
        for name in ("whole", "killed")
    ]
    assert figures[0] == figures[1]
    assert [line["loss"] for line in lines(tmp_path / "whole", "eval")] == [
        line["loss"] for line in lines(tmp_path / "killed", "eval")
    ]
    assert not differing(weights(again), weights(whole))
    (resumed,) = events(tmp_path / "killed", "resumed")
    lost = [json.loads(line) for line in (tmp_path / "killed/metrics.lost-1.jsonl").read_text().splitlines()]
    assert resumed["records_moved"] == len(lost) > 0
    assert [line["step"] for line in lost if line["kind"] == "update"] == [kill_at]

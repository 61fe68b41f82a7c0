from __future__ import annotations

import pytest

from bigbatch.errors import RecipeError
from tests.jobs import differing, document, events, exhaust, lines, start, weights

TABLE = {
    "epochs": 3,
    "batch": {
        "samples": 32,
        "allow_repeats": False,
        "ramp": {"from": 8, "by": "table", "table": {"40 samples": 16, "40 %": 32}},
    },
    "schedule": "constant",
    "schedule.warmup": 0,
    "optimizer.base_batch": 8,
    "optimizer.lr_rule": "sqrt",
    "optimizer.betas_rule": "half_life",
}
SIZES = [8] * 5 + [16] * 3 + [32] * 3 + [8]
"""192 samples: 40 by eights, to the first boundary behind 76.8 by sixteens, and the last batch takes what is left."""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ramp") / "r"
    return exhaust(start(folder, set=TABLE))


def test_the_batch_grows_where_the_table_says(grown):
    assert [line["batch_samples"] for line in lines(grown.path, "update")] == SIZES
    assert grown.result["samples"] == 192 and grown.result["updates"] == len(SIZES)


def test_rate_and_betas_follow_their_rules(grown):
    rates = [line["lr"] for line in lines(grown.path, "update")]
    assert rates == pytest.approx([1e-3] * 5 + [1e-3 * 2**0.5] * 3 + [2e-3] * 4)
    (group, *_) = grown._parts.strategy.optimizer.param_groups
    assert group["betas"] == pytest.approx((0.9**4, 0.999**4)) and group["eps"] == pytest.approx(1e-8 / 2)


def test_each_change_is_an_event_and_in_the_plan(grown):
    first, second = events(grown.path, "batch_ramp")
    assert (first["step"], second["step"]) == (5, 8)
    assert first["did"].startswith("8 -> 16 samples an update; peak lr 0.001 -> 0.00141421, betas 0.81")
    choice = document(grown.path, "plan.json")["ramp"]
    assert choice["value"] == "8 -> 16 (from 40 samples) -> 32 (from 77 samples)"
    assert document(grown.path, "plan.json")["updates"]["value"] == len(SIZES)


@pytest.mark.parametrize("left_after", [5, 6, 8])
def test_a_resumed_run_makes_the_same_changes(tmp_path, grown, left_after):
    with start(tmp_path / "r", set=TABLE) as run:
        for record in run:
            if record.kind == "update" and record.step == left_after:
                run.save()
            if record.kind == "event" and record.event == "checkpoint" and record.step == left_after:
                break
    resumed = exhaust(start(tmp_path / "r", set=TABLE))
    assert resumed.status == "finished"
    assert [line["batch_samples"] for line in lines(resumed.path, "update")] == SIZES
    assert [event["step"] for event in events(resumed.path, "batch_ramp")] == [5, 8]
    assert not differing(weights(resumed), weights(grown))


def test_cutting_ahead_changes_nothing(tmp_path, grown, monkeypatch):
    """On accelerators micro-batches are cut before it is known how large the next batch is."""
    monkeypatch.setattr(
        "bigbatch.run.between.Supply", lambda *args, lead, **keys: _Ahead(*args, lead=8, **keys)
    )
    ahead = exhaust(start(tmp_path / "r", set=TABLE))
    assert not differing(weights(ahead), weights(grown))


def _Ahead(*args, **keys):
    from bigbatch.step.ahead import Supply

    return Supply(*args, **keys)


def test_a_length_in_updates_is_refused(tmp_path):
    keys = {**TABLE, "updates": 10}
    del keys["epochs"]
    with pytest.raises(RecipeError, match="a ramp needs a length in epochs or samples"):
        start(tmp_path / "r", set=keys)
    assert not (tmp_path / "r").exists()


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    keys = {**TABLE, "batch": {"samples": 128, "ramp": {"from": 8, "by": "schedule"}}, "schedule": "linear"}
    with pytest.raises(RecipeError, match="one update takes 128 samples"):
        start(tmp_path / "r", set=keys)


def test_averages_stay_debiased_when_betas_change(grown):
    """The step of an optimiser is then the one that the new betas would have needed."""
    (state, *_) = grown._parts.strategy.optimizer.state.values()
    expected = ((5 / 2 + 3) / 2) + 4  # 5 updates of 8, 3 of 16, 4 of 32 and what is left
    assert float(state["step"]) == pytest.approx(expected)

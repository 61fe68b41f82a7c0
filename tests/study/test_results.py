from __future__ import annotations

from dataclasses import replace

import pytest

from bigbatch.study.jobs import Job, Outcome, read_job, write_json
from bigbatch.study.results import CEILING, Results, Round, figure, ratio, read_results, save_results, summary
from bigbatch.study.tables import console, failures, markdown, ratios_table


def job(**fields):
    given = {
        "kind": "classify", "data": "d", "model": "m", "recipe": "r", "folder": "f", "labels": ("a", "b"),
        "max_length": 8, "order": (0, 1), "batch_samples": 1, "warmup_updates": 1, "counted_updates": 1,
        "predict_samples": 0, "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "clip": None,
        "seed": 0, "device": "cpu", "threads": 1, "precision": "fp32", "compile": False,
    }  # fmt: skip
    return Job(**{**given, **fields})


def outcome(seconds, *, peak=100, first=2.0, predict=4.0):
    """100 tokens and 10 samples in `seconds`, after a warm-up update that ended at `first`."""
    return Outcome(
        started_at=1000.0,
        update_ends=(1000.0 + first, 1000.0 + first + seconds / 2, 1000.0 + first + seconds),
        warmup_updates=1,
        samples=10,
        tokens=100,
        loss=0.5,
        peak_memory_bytes=peak,
        predict_samples=8,
        predict_seconds=predict,
        details={"micro_samples": 32},
    )


def results(*rounds):
    return Results(
        date="2026-01-02T03:04:05Z",
        command="bigbatch bench r.yaml",
        machine={"device": "cpu", "name": "a CPU", "threads": 2},
        versions={"torch": "2", "accelerate": None},
        setting={"recipe": "r.yaml", "mean_tokens": 10.0},
        train_flops=1000.0,
        rounds=tuple(
            Round(ceiling_flops=ceiling, outcomes=outcomes, ceiling_details={"shape": "1x1x1"})
            for ceiling, outcomes in rounds
        ),
    )


PLANTED = results(
    (500.0, {"hf-best": outcome(10.0, peak=200), "bigbatch": outcome(5.0)}),
    (250.0, {"hf-best": outcome(40.0, peak=200), "bigbatch": outcome(10.0, peak=300, first=6.0)}),
    (500.0, {"hf-best": outcome(20.0, peak=200), "bigbatch": outcome(20.0)}),
)


def test_ratios_are_taken_within_a_round_and_then_summed_up():
    found = ratio(PLANTED, "tokens_per_second", "bigbatch", "hf-best")
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 4.0, 3)
    # The ratio of the medians would be 2.0 as well here, of the best rounds 2.0, of the means less.
    memory = ratio(PLANTED, "peak_memory_bytes", "bigbatch", "hf-best")
    assert (memory.median, memory.low, memory.high) == (0.5, 0.5, 1.5)
    first = ratio(PLANTED, "first_update_seconds", "bigbatch", "hf-best")
    assert (first.median, first.low, first.high) == (1.0, 1.0, 3.0)


def test_figures_have_medians_and_ranges():
    speed = figure(PLANTED, "tokens_per_second", "bigbatch")
    assert (speed.median, speed.low, speed.high) == (10.0, 5.0, 20.0)
    # Useful FLOPs 1000 in 5, 10, 20 s against 500, 250, 500 FLOP/s.
    share = figure(PLANTED, CEILING, "bigbatch")
    assert (share.median, share.low, share.high) == pytest.approx((0.4, 0.1, 0.4))
    assert figure(PLANTED, "predict_samples_per_second", "hf-best").median == 2.0


def test_a_round_in_which_one_failed_gives_no_ratio():
    broken = replace(
        PLANTED,
        rounds=(
            *PLANTED.rounds[:2],
            replace(
                PLANTED.rounds[2],
                outcomes={**PLANTED.rounds[2].outcomes, "hf-best": Outcome(failed="exit code 1\nboom")},
            ),
        ),
    )
    found = ratio(broken, "tokens_per_second", "bigbatch", "hf-best")
    assert (found.median, found.rounds) == (3.0, 2)
    assert figure(broken, "tokens_per_second", "bigbatch").rounds == 3
    [said] = failures(broken)
    assert "round 3" in said and "boom" in said
    assert said in console(broken) and said in markdown(broken)


def test_a_figure_that_nobody_has_is_a_dash():
    without = results((None, {"bigbatch": replace(outcome(5.0), predict_samples=0, predict_seconds=0.0)}))
    assert figure(without, "predict_samples_per_second", "bigbatch") is None
    assert figure(without, CEILING, "bigbatch") is None
    assert "–" in "".join(console(without))
    assert ratios_table(without) == []


def test_results_come_back_as_they_were_saved(tmp_path):
    path = tmp_path / "results.json"
    save_results(path, PLANTED)
    assert read_results(path) == PLANTED
    assert summary(read_results(path))["bigbatch"]["ratios"]["hf-best"]["tokens_per_second"]["median"] == 2.0


def test_results_of_another_schema_are_refused(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"schema": 99})
    with pytest.raises(ValueError, match="not results of schema 1"):
        read_results(path)


def test_jobs_come_back_as_they_were_written(tmp_path):
    given = job(order=(3, 1, 2, 0), counted_updates=3, shapes=((2, 3, 4),), trial=(8, 16))
    write_json(tmp_path / "job.json", given)
    assert read_job(tmp_path / "job.json") == given
    assert (given.updates, given.counted_order) == (4, (1, 2, 0))


def test_the_table_shows_median_and_range():
    table = "\n".join(ratios_table(PLANTED))
    assert "2.00 (1.00 … 4.00)" in table
    assert "Trainer, at its best" in table

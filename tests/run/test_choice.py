"""Which weights are kept: luck is no reason, a real difference is; whether killed or not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bigbatch.errors import CheckpointError
from bigbatch.metrics.classify import known_metrics
from bigbatch.rules.paired import best_of, sign_p
from bigbatch.run.choice import BEST, STOPPING, choose, note_best, note_for_stopping, shown_p
from bigbatch.store.checkpoints import list_checkpoints, read_checkpoint
from bigbatch.store.progress import Best, Progress
from bigbatch.store.stored_index import check_run_state
from bigbatch.store.tensors import scores_read
from tests.jobs import HELD_OUT, differing, document, events, exhaust, start
from tests.run.test_loop import Scripted

ROWS = 200


def parts_of(choose: str = "paired", *, metric: str = "accuracy", stopping: Any = None) -> Any:
    """What the choice asks of a run's parts."""
    return SimpleNamespace(
        recipe=SimpleNamespace(best=SimpleNamespace(choose=choose), early_stopping=stopping),
        validation=["validation"],
        judged=["validation"],
        evaluated_with=str,
        best_metric=metric,
        metrics=tuple(known_metrics("single", ("a", "b")).values()),
        larger_is_better=lambda name: name != "loss",
        clocks=SimpleNamespace(open_end=False),
    )


def right(rows: int, of: int = ROWS, *, apart: int = 0) -> np.ndarray:
    """So many rows right, the last `apart` of the right ones elsewhere."""
    found = np.zeros(of)
    found[: rows - apart] = 1
    found[of - apart :] = 1
    return found


def evaluated(scores: np.ndarray, metric: str = "accuracy") -> Any:
    return {"validation": SimpleNamespace(scores={metric: scores}, by_source={})}


def ended(
    then: np.ndarray | None, now: np.ndarray, *, evaluations: int = 2, final: float | None = None
) -> Progress:
    """A run at its end, whose evaluation after update 3 of 9 was the best."""
    best = 0.9 if then is None else float(then.mean())
    progress = Progress(update=9, evaluations=evaluations, best=Best(metric="accuracy", value=best, step=3))
    progress.figures = {"validation": {"accuracy": float(now.mean()) if final is None else final}}
    progress.scores = {} if then is None else {BEST: then}
    return progress


def test_luck_does_not_replace_the_final_weights():
    then, now = right(182), right(178, apart=8)  # 12 rows lost, 8 won
    kept = choose(parts_of(), ended(then, now), evaluated(now))
    assert (kept.update, kept.of, kept.best_update, kept.rows, kept.evaluations) == (9, "final", 3, 200, 1)
    assert kept.p == pytest.approx(sign_p(12, 8)) and kept.difference == pytest.approx(0.02)
    assert kept.why == (
        "the final weights are kept: after update 3 accuracy was 0.91, at the end 0.89, a difference that chance makes "
        "too (p = 0.25 on 200 rows)"
    )


def test_a_difference_beyond_chance_does():
    then, now = right(182), right(162, apart=4)
    kept = choose(parts_of(), ended(then, now), evaluated(now))
    assert (kept.update, kept.of) == (3, "best") and kept.p == pytest.approx(sign_p(24, 4))
    assert "the weights of update 3 are kept" in kept.why and "beyond chance (p < 0.001" in kept.why


def test_the_best_of_many_has_to_be_better():
    then, now = right(182), right(173, apart=3)  # 12 lost, 3 won: p = .018
    alone, among = (choose(parts_of(), ended(then, now, evaluations=n), evaluated(now)) for n in (2, 21))
    assert (alone.of, among.of) == ("best", "final")
    assert among.p == pytest.approx(best_of(sign_p(12, 3), 20)) and "best of 20 evaluations" in among.why


def test_the_figure_alone_can_choose():
    then, now = right(182), right(181)
    kept = choose(parts_of("figure"), ended(then, now), {})
    assert (kept.update, kept.of, kept.p) == (3, "best", None) and "best.choose: figure" in kept.why


@pytest.mark.parametrize("then", [None, right(15, 20)])
def test_rows_that_cannot_be_compared_leave_it_to_the_figure(then):
    now = right(178)
    kept = choose(parts_of(), ended(then, now), evaluated(now))
    assert (kept.of, kept.p) == ("best", None) and "cannot be compared" in kept.why


def test_a_final_figure_that_is_no_number_is_never_kept():
    now = right(178)
    progress = ended(right(180), now)
    progress.figures["validation"]["accuracy"] = None
    kept = choose(parts_of(), progress, evaluated(now))
    assert (kept.of, kept.difference) == ("best", None)


def test_the_final_weights_where_none_were_better():
    progress = Progress(update=9, best=Best(metric="accuracy", value=0.9, step=9))
    assert choose(parts_of(), progress, {}).of == choose(parts_of(), Progress(update=9), {}).of == "final"


@pytest.mark.parametrize(("p", "words"), [(0.31415, "= 0.31"), (0.0002, "< 0.001"), (0.9999, "= 1")])
def test_chances_in_words(p, words):
    assert shown_p(p) == words


# ---------------------------------------------------------------- early stopping

STOP = SimpleNamespace(metric=None, min_delta=0.0, target=None)


def seen(values: list[np.ndarray], *, choose: str = "paired", metric: str = "accuracy") -> list[int]:
    """Stale evaluations after each of these."""
    parts, progress, found = parts_of(choose, metric=metric, stopping=STOP), Progress(), []
    for scores in values:
        progress.figures = {"validation": {metric: abs(float(scores.mean()))}}
        note_for_stopping(parts, progress, evaluated(scores, metric))
        found.append(progress.stale_evaluations)
    return found


def test_one_row_more_is_no_improvement():
    values = [right(100), right(101, apart=1), right(103, apart=12), right(130)]
    assert seen(values) == [0, 1, 2, 0]
    assert seen(values, choose="figure") == [0, 0, 0, 0]


def test_small_steps_add_up():
    assert seen([right(100), right(101), right(102), right(103)]) == [0, 1, 0, 1], (
        "p = .5, then .25 of the two"
    )


def test_the_loss_has_no_say_in_a_figure_without_scores_of_its_own():
    assert seen([right(100), right(101)], metric="a_user's_own") == [0, 0]
    assert seen([right(100), right(101)], metric="roc_auc_ovr") == [0, 1], "its rows have scores"


def test_a_loss_that_falls_a_little_everywhere_improves():
    random = np.random.default_rng(0)
    then = -random.exponential(size=ROWS)
    assert seen([then, then + 0.001], metric="loss") == [0, 0]
    assert seen([then, then[::-1] + 0.001], metric="loss") == [0, 1]


def test_the_scores_of_the_best_are_remembered():
    parts, progress = parts_of(), Progress(update=4)
    progress.figures = {"validation": {"accuracy": 0.5}}
    assert note_best(parts, progress, evaluated(right(100)))
    progress.figures = {"validation": {"accuracy": 0.4}}
    assert not note_best(parts, progress, evaluated(right(80)))
    np.testing.assert_array_equal(progress.scores[BEST], right(100))
    assert "scores" not in progress.to_dict()


# ---------------------------------------------------------------- whole runs

KEYS = {"updates": 6, "run.evaluate_every": "1 updates", "best": "scripted", "optimizer.lr": 3e-3}


def run_of(folder, values, **keys):
    return start(folder, validation=HELD_OUT, metrics=[Scripted(values)], set={**KEYS, **keys})


LUCKY = [0.5, 0.9, 0.6, 0.7, 0.6, 0.8]


def test_a_lucky_peak_keeps_the_final_weights(tmp_path):
    run, latest = run_of(tmp_path / "r", LUCKY), {}
    with run:
        for record in run:
            if record.kind == "update":
                latest = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    assert run.result["best"] == {"metric": "scripted", "value": 0.9, "step": 2}
    kept = run.result["kept"]
    assert (kept["update"], kept["of"], kept["best_update"], kept["rows"]) == (6, "final", 2, 24)
    assert kept["p"] >= 0.05 and kept["difference"] == pytest.approx(0.1)
    assert run.metrics["validation.scripted"] == 0.8
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "r/model").state_dict()
    assert not differing(exported, latest)
    (event,) = events(tmp_path / "r", "final_weights")
    assert event["why"] == kept["why"] and not events(tmp_path / "r", "best_weights")
    assert kept["why"] in (tmp_path / "r/model/README.md").read_text()


def test_weights_that_were_spoilt_are_not_kept(tmp_path):
    keys = {"run.evaluate_every": "1 updates", "optimizer.lr": 3.0, "schedule": "constant"}
    run = exhaust(start(tmp_path / "r", validation=HELD_OUT, set=keys))
    kept = run.result["kept"]
    assert (kept["of"], kept["update"]) == ("best", run.result["best"]["step"]) and kept["p"] < 0.05
    assert run.metrics["validation.loss"] == run.result["best"]["value"]


def test_a_run_that_goes_on_chooses_as_one_that_was_never_stopped(tmp_path):
    keys = {"best": "accuracy", "early_stopping": {"patience": "9 evaluations"}}
    straight = exhaust(start(tmp_path / "a", validation=HELD_OUT, set={**KEYS, **keys}))
    with start(tmp_path / "b", validation=HELD_OUT, set={**KEYS, **keys}) as run:
        for record in run:
            if record.kind == "update" and record.step == 4:
                break
    state = read_checkpoint(list_checkpoints(tmp_path / "b/checkpoints")[-1])
    assert {"scores/best", "scores/stopping"} <= set(state.tensors)
    again = exhaust(start(tmp_path / "b", validation=HELD_OUT, set={**KEYS, **keys}))
    assert again.result["kept"] == straight.result["kept"] and again.result["best"] == straight.result["best"]
    assert document(tmp_path / "b", "result.json")["final"] == straight.result["final"]


# ---------------------------------------------------------------- what lies on the disk


@pytest.mark.parametrize("scores", [torch.zeros(2, 2, dtype=torch.float64), torch.zeros(3), torch.zeros(())])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(CheckpointError, match="one float64 a row"):
        scores_read({"scores/best": scores})


def test_scores_have_no_place_in_the_state():
    state = {"progress": {**Progress().to_dict(), "scores": {BEST: [1.0]}}, "guard": {}}
    state["guard"] = {"skipped_in_a_row": [], "skipped_updates": 0, "last_finite": None}
    with pytest.raises(CheckpointError, match=r"progress\.scores"):
        check_run_state(state)


def test_carrying_on_forgets_what_ended_the_run():
    progress = Progress()
    progress.scores = {BEST: right(3), STOPPING: right(3)}
    progress.carry_on(changed=True)
    assert set(progress.scores) == {BEST} and not math.isnan(progress.scores[BEST].sum())

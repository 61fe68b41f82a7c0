"""Figures that do not exist and yet steer: refused before the first update, or told at the first evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bigbatch.data.tokens import as_table
from bigbatch.errors import RecipeError
from bigbatch.infer.evaluate import impossible_figures
from bigbatch.metrics.classify import default_metrics
from bigbatch.samples import Predictions, Targets
from bigbatch.store.checkpoints import list_checkpoints
from bigbatch.tasks.classify import Classify
from tests.jobs import ROWS, document, events, exhaust, lines, start
from tests.language import MASK, documents, model_of
from tests.models import tiny

ONE_CLASS = [{"input_ids": [5 + place, 7], "labels": 1} for place in range(8)]
TAGGED = [{"input_ids": [5 + place, 7, 9], "labels": [place % 3, 2, 2]} for place in range(12)]
OUTSIDE = [{"input_ids": [5, 7, 9], "labels": [2, 2, 2]}] * 4
NUMBERS = [{"input_ids": [5 + place, 7], "labels": float(place)} for place in range(12)]
CONSTANT = [{"input_ids": [5, 7], "labels": 2.0}] * 4
SPECIALS = [{"input_ids": [MASK] * 5}] * 4
TAG = {"name": "tag", "labels": ["B-X", "I-X", "O"]}
JOBS: dict[str, tuple[Any, Any, Any, Any, str, str]] = {
    "one class": (lambda: tiny("bert"), ROWS, ONE_CLASS, {"name": "classify"}, "roc_auc_ovr", "class '0' does not occur"),
    "absent class": (lambda: tiny("bert"), ROWS, ONE_CLASS, {"name": "classify"}, "f1_2", "class '2' neither occurs"),
    "no entities": (lambda: tiny("bert", head="tokens"), TAGGED, OUTSIDE, TAG, "f1", "there are no entities"),
    "constant": (lambda: tiny("bert", num_labels=1, problem_type="regression"), NUMBERS, CONSTANT,
                 {"name": "classify", "kind": "regression"}, "pearson", "the targets are constant"),
    "constant r2": (lambda: tiny("bert", num_labels=1, problem_type="regression"), NUMBERS, CONSTANT,
                    {"name": "classify", "kind": "regression"}, "r2", "the targets are constant"),
    "one class alone": (lambda: tiny("bert"), ROWS, ONE_CLASS, {"name": "classify"}, "matthews_corrcoef",
                        "even a perfect model has 0"),
    "no tokens": (lambda: model_of("mlm"), documents(12), SPECIALS, {"name": "mlm", "mask_id": MASK}, "loss", "nothing in"),
}  # fmt: skip


@pytest.mark.parametrize("place", ["best", "early_stopping.metric", "gate"])
@pytest.mark.parametrize("name", JOBS)
def test_what_the_validation_data_cannot_have_is_refused_before_the_first_update(tmp_path, name, place):
    module, rows, held_out, task, figure, reason = JOBS[name]
    asked = {"gate": {"gate": {figure: 0.5}}}.get(place, {place: figure})
    keys = {"task": task, "batch": 4, "updates": 2, **asked}
    key = f"gate.{figure}" if place == "gate" else place
    with pytest.raises(
        RecipeError, match=f"{key}: {figure} of validation cannot be known on these data: {reason}"
    ):
        start(tmp_path / "r", module(), rows=rows, validation=held_out, set=keys)
    assert not (tmp_path / "r").exists()
    run = exhaust(
        start(
            tmp_path / "s",
            module(),
            rows=rows,
            validation=held_out,
            set={"task": task, "batch": 4, "updates": 2},
        )
    )
    assert run.status == "finished", "what nobody is steered by is only null"
    found = lines(tmp_path / "s", "eval")[-1][figure]
    still = ("absent class", "constant r2", "one class alone")
    assert found is None or (name in still and found == 0), (
        "a class that does not occur may be predicted; of constant targets scikit-learn gives 0"
    )


def test_every_figure_can_be_known_where_all_classes_occur():
    random = np.random.default_rng(0)
    rows = {
        "single": [{"input_ids": [5], "labels": int(each)} for each in random.integers(0, 3, 30)],
        "multi": [{"input_ids": [5], "labels": random.integers(0, 2, 3).tolist()} for _ in range(30)],
        "regression": [{"input_ids": [5], "labels": float(random.normal())} for _ in range(30)],
    }
    for kind, some in rows.items():
        task: Any = Classify(kind=kind, labels=None if kind == "regression" else ("a", "b", "c"))  # type: ignore[arg-type]
        names = task.label_names
        table = as_table([task.encode(row, None) for row in some])
        assert impossible_figures(task, table, default_metrics(kind, names)) == {}


class Sometimes:
    """A metric of the user's, a number from its `since`-th call on."""

    __name__ = "mine"

    def __init__(self, nothing: Any, since: int) -> None:
        self.nothing, self.since, self.calls = nothing, since, 0

    def __call__(self, predictions: Predictions, targets: Targets) -> Any:
        self.calls += 1
        return float(self.calls) if self.calls >= self.since else self.nothing


@pytest.mark.parametrize(
    ("place", "nothing"),
    [("best", None), ("gate", None), ("early_stopping.metric", None), ("early_stopping.metric", math.nan)],
)
def test_a_metric_of_the_users_without_a_number_ends_the_run_at_the_first_evaluation(
    tmp_path, place, nothing
):
    asked = {"gate": {"gate": {"mine": 0.5}}}.get(place, {place: "mine"})
    keys = {"run.evaluate_every": "2 updates", "metrics": ["accuracy"]}
    run = start(tmp_path / "r", validation=ONE_CLASS, metrics=[Sometimes(nothing, 9)], set={**keys, **asked})
    with pytest.raises(RecipeError, match="mine of validation does not exist"):
        exhaust(run)
    assert document(tmp_path / "r", "status.json")["state"] == "failed"
    assert len(lines(tmp_path / "r", "update")) == 2
    said = events(tmp_path / "r", "undefined_figure")
    assert len(said) == 1 and "ends the run" in said[0]["did"]
    assert [path.name for path in list_checkpoints(tmp_path / "r" / "checkpoints")] == ["step-000002"], (
        "no update is lost"
    )
    if place == "gate":  # which is no part of what is computed
        again = start(tmp_path / "r", validation=ONE_CLASS, metrics=[Sometimes(nothing, 9)], set=keys)
        assert exhaust(again).status == "finished"
        assert [line["step"] for line in lines(tmp_path / "r", "update")] == [1, 2, 3, 4]


def test_a_metric_of_the_users_that_is_no_number_yet_is_told_and_may_become_the_best(tmp_path):
    keys = {"run.evaluate_every": "1 updates", "best": "mine"}
    run = start(tmp_path / "r", validation=ONE_CLASS, metrics=[Sometimes(math.nan, 3)], set=keys)
    assert exhaust(run).result["best"]["step"] == 4
    assert [event["step"] for event in events(tmp_path / "r", "undefined_figure")] == [1]


def test_a_figure_that_the_model_does_not_have_yet_is_told_once(tmp_path):
    """Constant predictions have no correlation; rows of equal tokens give them."""
    equal = [{**row, "input_ids": [5, 7]} for row in NUMBERS]
    keys = {
        "task": {"name": "classify", "kind": "regression"}, "best": "pearson", "batch": 4, "updates": 4,
        "run.evaluate_every": "1 updates",
    }  # fmt: skip
    module = tiny("bert", num_labels=1, problem_type="regression")
    run = exhaust(start(tmp_path / "r", module, rows=NUMBERS, validation=equal, set=keys))
    assert run.status == "finished" and document(tmp_path / "r", "result.json")["best"] is None
    said = events(tmp_path / "r", "undefined_figure")
    assert len(said) == 1 and said[0]["step"] == 1 and said[0]["did"] == "counts as not improved"
    assert "best: pearson of validation does not exist: the predictions are constant" in said[0]["why"]


def test_where_no_label_applies_figures_of_several_labels_cannot_move():
    task = Classify(kind="multi", labels=("a", "b"))
    rows = [{"input_ids": [5, 7], "labels": [0, 0]}] * 3
    table = as_table([task.encode(row, None) for row in rows])
    impossible = impossible_figures(task, table, default_metrics("multi", ("a", "b")))
    assert {"f1_micro", "f1_macro", "average_precision"} <= set(
        impossible
    ) and "exact_match" not in impossible

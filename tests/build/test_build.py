from __future__ import annotations

import numpy as np
import pytest
import torch

from bigbatch.build.build import Given, build
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.build.measure import measured_plan
from bigbatch.errors import DataError, RecipeError
from bigbatch.recipe.load import load_recipe
from tests.models import tiny
from tests.split import plan_of, rows_of

ROWS = rows_of("single", 80, longest=20)


def parts_of(rows=ROWS, module=None, frozen=True, base=None, planner=measured_plan, **keys):
    """Parts of a job on tokenised rows."""
    asked = {"model": {"name": None}, "data": {"train": []}, "batch": 16, "updates": 10, **keys}
    recipe = load_recipe(asked, environ={})
    if base is not None:
        recipe = recipe.from_source(base / "job.yaml")
    live = Live(module=module or tiny("bert"), train=rows, validation=rows[:10])
    task = live_task(recipe, live)
    inputs = read_inputs(recipe, task, live)
    plan = plan_of(64, "padded") if frozen else None
    return build(recipe, task, inputs, Given(live=live, plan=plan, planner=planner))


def test_a_frozen_plan_is_used_as_it_is_and_nothing_is_measured():
    def measured(_):
        raise AssertionError("a resume must not measure again")

    parts = parts_of(planner=measured)
    assert (parts.micro_tokens, parts.packing) == (64, "padded")
    with pytest.raises(AssertionError, match="measure again"):
        parts_of(frozen=False, planner=measured)


def test_building_changes_no_weight_and_leaves_no_gradient():
    module = tiny("bert", dropout=0.2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    parts = parts_of(module=module, frozen=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not parts.strategy.optimizer.state


def test_the_learning_rate_is_the_schedule_at_the_midpoint_of_the_samples():
    parts = parts_of(optimizer={"lr": 1.0}, schedule={"name": "linear", "warmup": 0})
    found = [parts.learning_rate(first, 16) for first in range(0, 160, 16)]
    assert found == pytest.approx([1 - (first + 8) / 160 for first in range(0, 160, 16)])
    warm = parts_of(optimizer={"lr": 1.0}, schedule={"name": "linear", "warmup": "32 samples"})
    assert warm.learning_rate(0, 16) == pytest.approx(0.25) and warm.learning_rate(16, 16) == pytest.approx(
        0.75
    )


def test_a_rescaled_learning_rate_is_used_and_said():
    keys = {"optimizer": {"lr": 1e-3, "base_batch": 4, "lr_rule": "linear"}, "schedule": "constant"}
    parts = parts_of(frozen=False, **keys)
    assert parts.clocks.effective.lr == pytest.approx(4e-3)
    assert parts.learning_rate(64, 16) == pytest.approx(4e-3)
    assert (
        parts.plan.choices["learning_rate"].value == pytest.approx(4e-3)
        and "0.001" in parts.plan.choices["learning_rate"].reason
    )


def test_class_weights_are_in_the_training_table_and_nowhere_else():
    rows = [{**row, "labels": 0 if number < 60 else 1 + number % 2} for number, row in enumerate(ROWS)]
    parts = parts_of(rows, loss={"class_weights": "balanced"})
    values, weights = np.asarray(parts.train.values), np.asarray(parts.train.weights)
    for label, count in ((0, 60), (1, 10), (2, 10)):
        assert weights[values == label] == pytest.approx(80 / (3 * count))
    assert set(np.asarray(parts.tables["validation"].weights).tolist()) == {1.0}


def test_frozen_parameters_are_not_given_to_the_optimizer():
    parts = parts_of(model={"name": None, "trainable": ["classifier.*"]})
    named = {id(parameter): name for name, parameter in parts.module.named_parameters()}
    trained = sorted(named[id(parameter)] for parameter in parts.strategy.parameters)
    assert trained == ["classifier.bias", "classifier.weight"]
    groups = [parameter for group in parts.strategy.optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in groups} == {
        id(parameter) for parameter in parts.strategy.parameters
    }


def test_an_optimizer_and_a_schedule_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "def descent(params, lr, **_):\n    return torch.optim.SGD(params, lr=lr, momentum=0.5)\n"
        "def half(progress, **_):\n    return 0.5\n"
    )
    parts = parts_of(base=tmp_path, optimizer={"name": "own.py:descent", "lr": 0.2}, schedule="own.py:half")
    assert isinstance(parts.strategy.optimizer, torch.optim.SGD)
    assert parts.strategy.optimizer.param_groups[0]["momentum"] == 0.5


def test_tokens_that_the_model_cannot_take_are_refused():
    with pytest.raises(DataError, match="found token id 100, but the model's embedding has 100 rows"):
        parts_of([*ROWS, {"input_ids": [100], "labels": 0}])
    with pytest.raises(DataError, match="65 tokens, but max_length is 64"):
        parts_of([*ROWS, {"input_ids": [5] * 65, "labels": 0}])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch": 81}, "one update takes 81 samples, but the training data has 80"),
        ({"optimizer": {"base_batch": 1, "betas_rule": "sde"}}, "1 - beta|beta"),
    ],
)
def test_what_makes_no_sense_for_this_data_is_refused(keys, message):
    with pytest.raises(RecipeError, match=message):
        parts_of(**keys)


def test_batches_may_repeat_samples_if_asked():
    parts = parts_of(batch={"samples": 100, "allow_repeats": True})
    batch = parts.batches.at(0, 1)
    assert batch.samples == 100 and len(set(batch.sample_ids_B.tolist())) == 80


def test_token_batches():
    parts = parts_of(batch={"tokens": 150})
    position = 0
    for update in range(1, 6):
        batch = parts.batches.at(position, update)
        assert 0 < batch.tokens <= 150
        position += batch.samples
    assert parts.clocks.length.updates == 10


def test_shrinking_changes_the_plan_and_says_why():
    parts = parts_of()
    parts.shrink(32, "64 tokens ran out of memory at update 3")
    assert parts.micro_tokens == 32
    choice = parts.plan.choices["micro_tokens"]
    assert "out of memory at update 3" in choice.reason and choice.source == "measured"


def test_which_metric_decides_and_in_which_direction():
    parts = parts_of()
    assert parts.best_metric == "loss" and not parts.larger_is_better("loss")
    assert parts.larger_is_better("f1_macro") and parts.larger_is_better("f1_0")
    assert not parts.larger_is_better("log_loss") and not parts.larger_is_better("validation.loss")
    assert parts_of(best="accuracy").best_metric == "accuracy"

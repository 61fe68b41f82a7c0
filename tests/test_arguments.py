"""Calls as other libraries have them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import EarlyStoppingCallback, TrainingArguments

import bigbatch
from bigbatch.arguments import usual
from bigbatch.errors import UsageError
from bigbatch.recipe.training_arguments import translated
from tests.jobs import lines
from tests.models import tiny
from tests.test_api import KEYS, TEXTS

pytestmark = pytest.mark.usefixtures("here")


def arguments(**changes):
    return TrainingArguments(**{"output_dir": "out", "use_cpu": True, "max_steps": 3} | changes)


def test_train_model_is_train():
    assert bigbatch.train_model is bigbatch.train


# ---------------------------------------------------------------- TrainingArguments


def test_training_arguments_say_what_they_say_there(two_labels):
    args = arguments(per_device_train_batch_size=4, gradient_accumulation_steps=3, learning_rate=1e-3)
    run = bigbatch.train(two_labels, TEXTS, TEXTS[:20], args=args)
    recipe = run._parts.recipe
    assert (run.path.name, run.result["updates"]) == ("out", 3)
    assert recipe.batch.samples == 12 and recipe.optimizer.weight_decay == 0.0
    assert [line["batch_samples"] for line in lines(run.path, "update")] == [12, 12, 12]
    # Linear to zero without warm-up, read at the middle of each update.
    assert [line["lr"] for line in lines(run.path, "update")] == pytest.approx(
        [1e-3 * x / 6 for x in (5, 3, 1)]
    )


def test_their_defaults_are_honoured():
    args = TrainingArguments(output_dir="out", use_cpu=True)
    with bigbatch.start(tiny("bert"), ids(), args=args) as run:
        recipe = run._parts.recipe
    assert (recipe.epochs, recipe.batch.samples, recipe.optimizer.lr) == (3, 8, 5e-5)
    assert (recipe.schedule.name, recipe.seed.model) == ("linear", 42)


def ids():
    return [{"input_ids": [2, 5 + number % 3, 3], "labels": number % 3} for number in range(60)]


def test_every_other_argument_overrules_them(two_labels):
    run = bigbatch.train(
        two_labels,
        TEXTS,
        args=arguments(learning_rate=1e-3),
        batch_size=20,
        lr=2e-3,
        run_dir="r",
        set={"updates": 2},
    )
    recipe = run._parts.recipe
    assert (run.path.name, run.result["updates"]) == ("r", 2)
    assert (recipe.batch.samples, recipe.optimizer.lr) == (20, 2e-3)


def test_an_epoch_count_replaces_their_number_of_steps(two_labels):
    assert bigbatch.train(two_labels, TEXTS, args=arguments(), epochs=1).result["updates"] == 8


def test_what_is_lost_is_printed_once_and_what_is_not_lost_is_not(two_labels, capsys):
    quiet = arguments(per_device_eval_batch_size=4, eval_strategy="epoch", save_strategy="epoch")
    bigbatch.train(two_labels, TEXTS, TEXTS[:20], args=quiet)
    assert "bigbatch: note" not in capsys.readouterr().err
    loud = arguments(optim="adafactor", use_liger_kernel=False, eval_on_start=True, output_dir="loud")
    bigbatch.train(two_labels, TEXTS, TEXTS[:20], args=loud)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bigbatch: note")]
    assert [note.partition("=")[0] for note in notes] == [
        "bigbatch: note: optim",
        "bigbatch: note: eval_on_start",
    ]


def test_nothing_that_was_chosen_is_lost_in_silence():
    """Every field of the real class is read, known not to matter, or told of."""
    found = translated(arguments(batch_eval_metrics=True, torch_compile_mode="max-autotune", eval_delay=3))
    assert {note.partition("=")[0] for note in found.lost} >= {
        "batch_eval_metrics",
        "torch_compile_mode",
        "eval_delay",
    }
    assert translated(TrainingArguments(output_dir="x", use_cpu=True)).lost == []
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    assert translated(TrainingArguments(output_dir="x", use_cpu=True, **best)).lost == []


def test_the_named_metric_chooses_the_weights(two_labels):
    args = arguments(
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    run = bigbatch.train(two_labels, TEXTS, TEXTS[:20], args=args)
    assert run._parts.recipe.best.metric == "accuracy"
    assert run.result["best"]["metric"] == "accuracy"
    assert bigbatch.start(two_labels, TEXTS, args=arguments(output_dir="b"))._parts.recipe.best.metric is None


def test_a_metric_of_a_named_set():
    found, _ = usual(
        {"model_or_recipe": "m", "args": arguments(metric_for_best_model="eval_hard_f1_macro"),
         "val_dataset": {"easy": TEXTS, "hard": TEXTS}}
    )  # fmt: skip
    assert found["defaults"]["best"] == "hard.f1_macro"


def test_the_ranks_that_the_caller_names_count_as_their_devices():
    args = SimpleNamespace(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    found, _ = usual({"model_or_recipe": "m", "args": args}, ranks=3)
    assert found["defaults"]["batch"] == {"samples": 24}


def test_processes_that_are_here_already_are_counted(monkeypatch):
    """As torchrun tells them; transformers counts one where it sees no accelerator."""
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    args = SimpleNamespace(per_device_train_batch_size=4, gradient_accumulation_steps=3, world_size=1)
    found, _ = usual({"model_or_recipe": "m", "args": args})
    assert found["defaults"]["batch"] == {"samples": 24}


def test_a_batch_is_never_more_than_all_rows(two_labels, capsys):
    run = bigbatch.train(two_labels, TEXTS, args=arguments(per_device_train_batch_size=100))
    assert run._parts.recipe.batch.samples == 60
    assert "the global batch is 60 samples, all rows there are: 100 were asked for" in capsys.readouterr().err
    columns = {name: [row[name] for row in TEXTS] for name in TEXTS[0]}
    found, _ = usual(
        {"model_or_recipe": "m", "args": arguments(per_device_train_batch_size=100), "train_dataset": columns}
    )
    assert found["defaults"]["batch"] == {"samples": 60}
    for files in ("a.csv", ["a.csv"], [Path("a.csv")], None):
        asked = {
            "model_or_recipe": "m",
            "args": arguments(per_device_train_batch_size=100),
            "train_dataset": files,
        }
        assert usual(asked)[0]["defaults"]["batch"] == {"samples": 100}


def test_machines_count_as_one_device_each_where_nobody_says_how_many_they_have():
    asked = {"model_or_recipe": "m", "args": SimpleNamespace(per_device_train_batch_size=4)}
    found, lost = usual(asked, nodes=3)
    assert found["defaults"]["batch"] == {"samples": 12}
    assert (
        "the global batch is 12 samples, as of one device a node; where nodes have several, say ranks="
        in lost
    )
    found, lost = usual(asked, ranks="auto", nodes=3)
    assert found["defaults"]["batch"] == {"samples": 12} and lost
    found, lost = usual({**asked, "set": {"plan.ranks": 5}}, nodes=3)
    assert found["defaults"]["batch"] == {"samples": 20} and not lost


@pytest.mark.parametrize("recipe", ["job.yaml", {"batch": 4}])
def test_two_recipes_are_refused(recipe):
    with pytest.raises(UsageError, match="both say how to train"):
        bigbatch.train(recipe, TEXTS, args=arguments())


def test_something_else_as_args_is_refused():
    with pytest.raises(UsageError, match="args: found dict; expected transformers.TrainingArguments"):
        bigbatch.train("m", TEXTS, args={"learning_rate": 1e-3})


# ---------------------------------------------------------------- the other names


@pytest.mark.parametrize(
    ("eager", "expected"),
    [(True, ("off", False, "padded")), (None, ("auto", None, None)), (False, ("blocks", None, None))],
)
def test_eager_computation_is_the_plain_path(two_labels, eager, expected):
    found, _ = usual({"model_or_recipe": str(two_labels), "computation_eager": eager, "set": {"updates": 1}})
    plan = bigbatch.Recipe.model_validate({"plan": plan_of(found["set"])}).plan
    assert (plan.compile, plan.lazy, plan.packing) == expected and found["set"]["updates"] == 1


def plan_of(keys):
    return {key.removeprefix("plan."): value for key, value in keys.items() if key.startswith("plan.")}


def test_eager_computation_gives_the_same_first_update(two_labels):
    runs = [
        bigbatch.train(
            two_labels, TEXTS, batch_size=16, computation_eager=eager, set=KEYS, run_dir=f"r{eager}"
        )
        for eager in (True, None)
    ]
    assert [run.plan.value("packing") for run in runs] == ["padded", "packed"]
    first, second = [lines(run.path, "update")[0] for run in runs]
    for figure in ("loss", "grad_norm"):
        assert first[figure] == pytest.approx(second[figure], rel=1e-5)


def test_eager_computation_is_true_or_false():
    with pytest.raises(UsageError, match="computation_eager: found 'yes'"):
        bigbatch.train("m", TEXTS, computation_eager="yes")


def test_callbacks_are_refused_with_what_does_their_work():
    class Mine:
        pass

    with pytest.raises(UsageError) as refused:
        bigbatch.train("m", TEXTS, callbacks=[EarlyStoppingCallback(3), Mine()])
    assert "instead of EarlyStoppingCallback: set=" in str(refused.value)
    assert "instead of Mine: observers=[function]" in str(refused.value)
    assert usual({"model_or_recipe": "m", "callbacks": []})[0] == {"model_or_recipe": "m"}


HEADS = {
    "classify": (lambda: tiny("bert"), lambda n: {"labels": n % 3}, {}),
    "tag": (lambda: tiny("bert", head="tokens"), lambda n: {"labels": [-100, n % 3, -100]}, {}),
    "mlm": (lambda: tiny("bert", head="masked"), lambda n: {}, {"task": {"name": "mlm", "mask_id": 4}}),
    "clm": (lambda: tiny("gpt2", head="causal"), lambda n: {}, {}),
    "regression": (lambda: tiny("bert", num_labels=1), lambda n: {"labels": n / 7}, {}),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_says_which_task_it_is_for(name):
    model, labels, keys = HEADS[name]
    rows = [{"input_ids": [2, 5 + number % 3, 3], **labels(number)} for number in range(40)]
    with bigbatch.start(model(), rows, batch_size=8, set={"updates": 1, **keys}, run_dir="r") as run:
        recipe, task = run._parts.recipe, run._parts.task
    assert (recipe.task.name, getattr(task, "kind", "")) in ((name, "single"), (name, ""), ("classify", name))


def test_a_named_task_wins_over_the_head():
    with pytest.raises(bigbatch.errors.ModelError, match="one output per token"):
        bigbatch.train(tiny("bert", head="masked"), ids(), task="classify")


# ---------------------------------------------------------------- what is printed


def test_progress_is_printed_without_a_terminal_and_silenced_by_quiet(two_labels, capsys):
    bigbatch.train(two_labels, TEXTS, TEXTS[:20], batch_size=16, set=KEYS, run_dir="a")
    shown = capsys.readouterr()
    assert "update 3/3" in shown.err and "report: " in shown.err and "\x1b" not in shown.err
    assert shown.out == ""
    bigbatch.train(two_labels, TEXTS, TEXTS[:20], batch_size=16, set=KEYS, run_dir="b", quiet=True)
    assert capsys.readouterr().err == ""


def test_who_iterates_over_the_records_has_nothing_printed(two_labels, capsys):
    with bigbatch.start(two_labels, TEXTS, batch_size=16, set=KEYS, run_dir="a") as run:
        for _ in run:
            pass
    assert capsys.readouterr().err == ""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bigbatch.errors import RecipeError
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.values import PLANNED
from bigbatch.units import Quantity


def test_a_recipe_without_keys_has_every_default():
    recipe = Recipe()
    assert (recipe.batch.samples, recipe.batch.tokens, recipe.length) == (256, None, Quantity(3.0, "epochs"))
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.betas) == (
        "adamw",
        5e-5,
        (0.9, 0.999),
    )
    assert (recipe.schedule.name, recipe.schedule.warmup) == ("linear", Quantity(6.0, "percent"))
    assert (recipe.clip, recipe.loss.name, recipe.loss.class_weights) == (1.0, "cross_entropy", "none")
    assert (recipe.task.name, recipe.task.args) == ("classify", {"kind": "single"})
    assert (recipe.run.dir, recipe.run.keep) == ("runs/{recipe}", 2)
    assert recipe.run.checkpoint_every == Quantity(300.0, "s")
    assert (recipe.model.name, recipe.data.train, recipe.data.validation) == (None, [], None)
    assert (recipe.metrics, recipe.early_stopping, recipe.gate) == ([], None, {})
    assert (recipe.best.metric, recipe.best.choose) == (None, "paired")


# Every form that the contract shows, next to its long form.
FORMS = {
    "model: org/name": {"model": {"name": "org/name"}},
    "model: {name: a/b, revision: main, tokenizer: c, init: random, config: {x: 1}, trainable: head}": {
        "model": {
            "name": "a/b",
            "revision": "main",
            "tokenizer": "c",
            "init": "random",
            "config": {"x": 1},
            "trainable": "head",
        }
    },
    "model: {name: a, trainable: ['*.bias', classifier]}": {"model": {"trainable": ["*.bias", "classifier"]}},
    "task: classify": {"task": {"name": "classify", "args": {"kind": "single"}}},
    "task: {name: classify, kind: multi, labels: [no, 1]}": {
        "task": {"name": "classify", "args": {"kind": "multi", "labels": ["no", "1"]}}
    },
    "data: {train: a.csv}": {"data": {"train": [{"path": "a.csv", "columns": None, "share": None}]}},
    "data: {train: [a.csv, {path: b.csv, columns: {text: t}}]}": {
        "data": {"train": [{"path": "a.csv"}, {"path": "b.csv", "columns": {"text": "t"}}]}
    },
    "data: {validation: a.csv}": {"data": {"validation": {"main": [{"path": "a.csv"}]}}},
    "data: {validation: {path: a.csv, columns: {text: t}}}": {
        "data": {"validation": {"main": [{"path": "a.csv", "columns": {"text": "t"}}]}}
    },
    "data: {validation: 0.1}": {"data": {"validation": 0.1}},
    "data: {validation: {main: a.csv, hard: b.csv}}": {
        "data": {"validation": {"main": [{"path": "a.csv"}], "hard": [{"path": "b.csv"}]}}
    },
    "data: {test: t.csv, columns: {text: review, label: stars}, max_length: 256, shuffle: full}": {
        "data": {
            "test": [{"path": "t.csv"}],
            "columns": {"text": "review", "label": "stars"},
            "max_length": 256,
            "shuffle": "full",
        }
    },
    "data: {text: review, label: stars}": {"data": {"columns": {"text": "review", "label": "stars"}}},
    "batch: 1024": {"batch": {"samples": 1024, "tokens": None}},
    "batch: {samples: 1024}": {"batch": {"samples": 1024}},
    "batch: {tokens: 65536}": {"batch": {"samples": None, "tokens": 65536}},
    "epochs: 3": {"epochs": 3.0},
    "epochs: 0.5": {"epochs": 0.5},
    "updates: 500": {"updates": 500, "epochs": None},
    "samples: 1e6": {"samples": 1_000_000, "epochs": None},
    "tokens: 1e9": {"tokens": 1_000_000_000, "epochs": None},
    "optimizer: lamb": {"optimizer": {"name": "lamb", "eps": 1e-6, "lr": 6.25e-4}},
    "optimizer: {name: adamw, lr: 5e-5, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, base_batch: null, "
    "lr_rule: none, betas_rule: keep, state: fp32}": {
        "optimizer": {"lr": 5e-5, "eps": 1e-8, "state": "fp32"}
    },
    "optimizer: {base_batch: 32, lr_rule: sqrt, betas_rule: half_life}": {
        "optimizer": {"base_batch": 32, "lr_rule": "sqrt", "betas_rule": "half_life"}
    },
    "optimizer: {base_batch: 32, lr_rule: linear, betas_rule: sde}": {
        "optimizer": {"base_batch": 32, "lr_rule": "linear", "betas_rule": "sde"}
    },
    "schedule: linear": {"schedule": {"name": "linear"}},
    "schedule: {name: cosine, warmup: 200 updates}": {
        "schedule": {"name": "cosine", "warmup": "200 updates"}
    },
    "schedule: {name: constant, warmup: 0}": {"schedule": {"name": "constant", "warmup": "0"}},
    "schedule: {name: wsd, warmup: 10000 samples, decay: 10 %}": {
        "schedule": {"name": "wsd", "warmup": "10000 samples", "decay": "10 %"}
    },
    "clip: 1.0": {"clip": 1.0},
    "clip: null": {"clip": None},
    "loss: cross_entropy": {"loss": {"name": "cross_entropy"}},
    "loss: {label_smoothing: 0, class_weights: balanced}": {"loss": {"class_weights": "balanced"}},
    "loss: {class_weights: {neg: 2.0}}": {"loss": {"class_weights": {"neg": 2.0}}},
    "loss: {name: 'file.py:focal', args: {gamma: 2}}": {
        "loss": {"name": "file.py:focal", "args": {"gamma": 2}}
    },
    "gradient: plain": {"gradient": {"name": "plain"}},
    "regularise: {dropout: null}": {"regularise": {"dropout": None}},
    "regularise: {dropout: 0.0}": {"regularise": {"dropout": 0.0}},
    "metrics: [accuracy, f1_macro]": {"metrics": ["accuracy", "f1_macro"]},
    "metrics: accuracy": {"metrics": ["accuracy"]},
    "{best: f1_macro, data: {validation: 0.1}}": {"best": {"metric": "f1_macro", "choose": "paired"}},
    "{best: {metric: f1_macro, choose: figure}, data: {validation: 0.1}}": {
        "best": {"metric": "f1_macro", "choose": "figure"}
    },
    "{best: null, data: {validation: 0.1}}": {"best": {"metric": None, "choose": "paired"}},
    "{early_stopping: {metric: f1_macro, patience: 3 evaluations, min_delta: 0}, data: {validation: 0.1}}": {
        "early_stopping": {"metric": "f1_macro", "patience": "3 evaluations", "min_delta": 0.0}
    },
    "{gate: {f1_macro: 0.75}, data: {test: t.csv}}": {"gate": {"f1_macro": 0.75}},
    "sync: {period: 1, replicas: 1, outer: average, compress: none}": {"sync": {"period": 1, "replicas": 1}},
    "sync: {period: auto, replicas: 4, outer: diloco}": {
        "sync": {"period": "auto", "replicas": 4, "outer": "diloco", "outer_lr": 0.7, "outer_momentum": 0.9}
    },
    "seed: 7": {"seed": {"model": 7, "data": 7, "dropout": 7}},
    "seed: {model: 1, data: 2, dropout: 3}": {"seed": {"model": 1, "data": 2, "dropout": 3}},
    "guard: {patience: 5, on_nonfinite: stop}": {"guard": {"patience": 5, "on_nonfinite": "stop"}},
    "plan: {micro_tokens: 512, ranks: 1, device: cpu, packing: padded, memory: 8 GiB, threads: 2, reproducible: run}": {
        "plan": {
            "micro_tokens": 512,
            "device": "cpu",
            "packing": "padded",
            "memory": 8 * 1024**3,
            "threads": 2,
        }
    },
    "launch: {kind: local, grace: 30 s}": {"launch": {"kind": "local", "grace": "30 s"}},
    "observers: tensorboard": {"observers": ["tensorboard"]},
    "observers: [wandb, mlflow, trackio, 'a.py:b']": {"observers": ["wandb", "mlflow", "trackio", "a.py:b"]},
    "observers: ['alerts.py:notify']": {"observers": ["alerts.py:notify"]},
    "run: {dir: 'runs/{recipe}', evaluate_every: 1 epochs, checkpoint_every: 5 min, keep: 2}": {
        "run": {"dir": "runs/{recipe}", "evaluate_every": "1 epochs", "checkpoint_every": "5 min", "keep": 2}
    },
    "run: {evaluate_every: end, checkpoint_every: never}": {
        "run": {"evaluate_every": "end", "checkpoint_every": "never"}
    },
    "{task: 'mine.py:Task', optimizer: {name: 'pkg.opt:Opt', lr: 1}, schedule: 'f.py:s', metrics: ['m.py:cost']}": {
        "metrics": ["m.py:cost"]
    },
}


def contains(whole, part):
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(whole) == len(part) and all(
            contains(left, right) for left, right in zip(whole, part, strict=True)
        )
    return whole == part


@pytest.mark.parametrize(("text", "long_form"), FORMS.items())
def test_every_form_of_the_contract(text, long_form, tmp_path):
    path = tmp_path / "recipe.yaml"
    base = tmp_path / "base.yaml"
    base.write_text("model: x\ndata: {train: t.csv}\n")
    body = text if text.startswith("{") else f"{{{text}}}"
    path.write_text(body[:-1] + ", extends: base.yaml}")
    recipe = load_recipe(path)
    dumped = recipe.model_dump()
    dumped["task"] = {"name": recipe.task.name, "args": recipe.task.args}
    assert contains(dumped, long_form), dumped


LATER = [
    "task={name: match, towers: 2}",
    "gradient=rdrop",
    "sync.mode=async",
    "sync.compress=powersgd",
    "guard.spike=3",
    "plan.precision=fp64",
    "plan.precision={name: fp64}",
    "launch.kind=ray",
]


@pytest.mark.parametrize("word", LATER)
def test_what_comes_later_parses_and_is_refused_as_planned(word):
    with pytest.raises(RecipeError) as caught:
        load_recipe({}, [word])
    assert [PLANNED in str(problem) for problem in caught.value.problems] == [True], str(caught.value)


WRONG = {
    "epochs=0": "found 0; expected more than 0",
    "epochs=true": "found true (true or false); expected a number",
    "epochs=.inf": "expected a finite number",
    "epochs=.nan": "expected a finite number",
    "updates=1.5": "found 1.5; expected a whole number",
    "batch=0": "found 0; expected at least 1",
    "batch=many": "expected a mapping of samples, tokens, allow_repeats, ramp",
    "optimizer.lr='5e-5'": "found '5e-5' (text); expected a number, without quotes, underscores or commas",
    "optimizer.lr=1_000": "expected a number, without quotes",
    "optimizer.betas=[0.9]": "expected two numbers, such as [0.9, 0.999]",
    "optimizer.betas=[0.9, 1]": "found 1; expected less than 1",
    "optimizer.nesterov=1": "found 1 (a number); expected true or false",
    "optimizer.name=adam": "did you mean adamw?",
    "schedule.warmup=6": "'6' has no unit",
    "schedule.warmup=1 min": "cannot be used here",
    "schedule.final_fraction=6 %": "expected a number",
    "gradient={name: fgm, share: 1}": "found 1; expected less than 1",
    "gradient={name: sam, epsilon: 1}": "epsilon: an option of fgm, not of sam",
    "gradient={rho: 0.1}": "rho: an option of sam, not of plain: leave it out",
    "gradient={name: cached, adaptive: false}": "adaptive: an option of sam, not of cached",
    "gradient={name: sam, rho: 0}": "found 0; expected more than 0",
    "gradient={name: sam, rhoo: 0.1}": "did you mean gradient.rho?",
    "clip=-1": "found -1; expected more than 0",
    "loss.name=crossentropy": "did you mean cross_entropy?",
    "loss.label_smoothing=1": "found 1; expected less than 1",
    "loss.class_weights=yes": "expected none | balanced | a mapping of labels to numbers",
    "loss.class_weights={neg: -1}": "neg: found -1",
    "regularise.dropout=2": "found 2; expected at most 1",
    "metrics=[1]": "found 1 (a number); expected text; put it in quotes",
    "data.validation=1": "found 1; expected less than 1",
    "data.validation=true": "expected a file, a share between 0 and 1",
    "data.encoding=utf-9": "expected an encoding such as utf-8",
    "data.columns={text: 0}": "found 0 (a number); expected text",
    "model.trainable=some": "expected all | head | a list",
    "task.labels=[a, a]": "expected distinct names",
    "task.kind=mutli": "found 'mutli'; expected single | multi | regression; did you mean multi?",
    "seed=-1": "found -1; expected at least 0",
    "plan.device=gpu": "expected cpu | cuda",
    "plan.memory=8 XB": "expected a size such as 8 GiB",
    "run.evaluate_every=5 evaluations": "cannot be used here",
    "run.keep=0": "found 0; expected at least 1",
    "observers=notify": "expected tensorboard | wandb | mlflow | trackio, or an import reference",
}


@pytest.mark.parametrize(("word", "part"), WRONG.items())
def test_wrong_values_are_refused_in_the_users_words(word, part):
    with pytest.raises(RecipeError) as caught:
        load_recipe({}, [word])
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"best": "f1"}, "best needs data.validation"),
        ({"gate": {"f1": 0.5}}, "gate needs data.validation or data.test"),
        ({"early_stopping": {}}, "early_stopping needs data.validation"),
    ],
)
def test_what_needs_validation_says_so_unless_python_brings_the_data(keys, part):
    with pytest.raises(RecipeError, match=part):
        load_recipe({"data": {"train": "t.csv"}, **keys})
    load_recipe({"data": {"train": "t.csv", "validation": 0.1}, **keys})
    load_recipe({"data": {"train": []}, **keys})


def test_a_recipe_is_frozen_and_refuses_unknown_keys():
    with pytest.raises(ValidationError):
        Recipe().optimizer.lr = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Recipe.model_validate({"optimizer": {"lrr": 1}})


def test_paths_start_at_the_recipe_and_the_run_at_the_current_folder(tmp_path, monkeypatch):
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "tweets.yaml").write_text("model: a\ndata: {train: t.csv}\n")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("jobs/tweets.yaml")
    assert recipe.resolve_path("t.csv") == folder / "t.csv"
    assert recipe.resolve_path("/abs/t.csv") == Path("/abs/t.csv")
    assert recipe.run_folder == tmp_path / "runs" / "tweets"
    assert load_recipe("jobs/tweets.yaml", ["run.root=/big"]).run_folder == Path("/big/runs/tweets")
    assert load_recipe({}).run_folder == tmp_path / "runs" / "run"


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, [], [])),
        (["plan.precision=bf16"], ("bf16", [], [])),
        (["plan.precision={name: fp16, keep_fp32: ['*.layer.1.*']}"], ("fp16", ["*.layer.1.*"], [])),
        (["plan.precision=bf16", "plan.precision.allow_low=['*pooler*']"], ("bf16", [], ["*pooler*"])),
        (["plan.precision.keep_fp32=['a']", "plan.precision.name=auto"], ("auto", ["a"], [])),
    ],
)
def test_a_precision_is_a_name_or_a_mapping(words, expected):
    found = load_recipe({}, words).plan.precision
    assert (found.name, found.keep_fp32, found.allow_low) == expected


def test_a_wrong_precision_names_the_key_that_was_written():
    with pytest.raises(RecipeError, match=r"plan\.precision: found 'bfloat16'; expected"):
        load_recipe({}, ["plan.precision=bfloat16"])


@pytest.mark.parametrize("name", ["sgd", "lamb", "own.py:Own"])
def test_a_smaller_state_is_adamws_alone(name):
    with pytest.raises(RecipeError, match=f"bf16_sr is built for adamw; {name} keeps its state in fp32"):
        load_recipe({}, [f"optimizer.name={name}", "optimizer.state=bf16_sr"])


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["gradient=sam"], (0.05, False)),
        (["gradient={name: sam, rho: 0.1}"], (0.1, False)),
        (["gradient=sam", "gradient.adaptive=true"], (0.5, True)),
        (["gradient={name: sam, adaptive: true, rho: 2}"], (2.0, True)),
        (["gradient=plain"], (None, None)),
        (["gradient=fgm"], (None, None)),
    ],
)
def test_options_of_a_gradient_have_the_defaults_of_its_name(words, options):
    asked = load_recipe({}, words).gradient
    assert (asked.rho, asked.adaptive) == options

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import RecipeError
from bigbatch.recipe.load import dump_recipe, load_recipe
from bigbatch.recipe.schema import Recipe

BASIC = "model: a/b\ndata: {train: t.csv}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="recipe.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def problems(*args, **kwargs):
    with pytest.raises(RecipeError) as caught:
        load_recipe(*args, **kwargs)
    return str(caught.value).splitlines()


def test_all_mistakes_at_once_line_by_line(write):
    path = write(
        """\
model: a/b
learning_rate: 3e-4
data:
  train: ftp://x/y
  text: 5
  validation: {main: a.csv, hard: {pth: b}}
batch: -3
epochs: 3
updates: 4
optimizer:
  lrr: 5
  lr: no
  lr: 4
schedule: linaer
plan: {packing: pakced}
task: {name: classify, labls: 3}
run.dir: 3
gate: 4
quux: 1
"""
    )
    environ = {"BIGBATCH_OPTIMIZER__LRS": "3", "BIGBATCH_GUARD__SPIKE": "3", "OTHER": "x"}
    assert problems(path, ["batch.tokens=x", "foo"], environ=environ) == [
        "recipe.yaml:2: learning_rate: here it is optimizer.lr",
        "recipe.yaml:4: data.train: ftp:// is not read; expected one of https://, http://, s3://, gs://, hf://, or a path",
        "recipe.yaml:5: data.text: found 5 (a number); expected text; put it in quotes",
        "recipe.yaml:6: data.validation.hard[0].path: is missing",
        "recipe.yaml:6: data.validation.hard.pth: unknown key; did you mean data.validation.hard.path?",
        "recipe.yaml:9: found epochs and updates together; expected one of them",
        "recipe.yaml:11: optimizer.lrr: unknown key; did you mean optimizer.lr?",
        "recipe.yaml:12: optimizer.lr: found 'no' (text); expected a number",
        "recipe.yaml:13: optimizer.lr: given twice, first in line 12",
        "recipe.yaml:14: schedule: found 'linaer'; expected linear | cosine | constant | wsd or your own code; did you "
        "mean linear?",
        "recipe.yaml:15: plan.packing: found 'pakced'; expected packed | padded; did you mean packed?",
        "recipe.yaml:16: task.labls: unknown key; did you mean task.labels?",
        "recipe.yaml:17: run.dir: unknown key; a file nests its keys: `run: {dir: ...}`",
        "recipe.yaml:18: gate: found 4 (a number); expected a mapping",
        "recipe.yaml:19: quux: unknown key; a recipe has model, task, data, batch, epochs, updates, samples, tokens, "
        "optimizer, schedule, clip, loss, gradient, regularise, metrics, best, early_stopping, gate, baseline, sync, seed, "
        "guard, scale, plan, launch, observers, run",
        "BIGBATCH_GUARD__SPIKE: guard.spike: 3.0 is planned, not built yet; leave it out",
        "BIGBATCH_OPTIMIZER__LRS: optimizer.lrs: unknown key; did you mean optimizer.lr?",
        "command line: found 'foo'; expected key=value, such as batch.samples=1024",
        "command line: batch.tokens: found 'x' (text); expected a number",
    ]


def test_the_contracts_own_example(write):
    text = "model: a\ndata: {train: t}\n" + "\n" * 8 + "optimizer:\n  lrr: 1\n"
    assert problems(write(text)) == ["recipe.yaml:12: optimizer.lrr: unknown key; did you mean optimizer.lr?"]


def test_a_key_of_another_section_is_pointed_to(write):
    assert problems(write(BASIC + "lr: 1\n")) == [
        "recipe.yaml:3: lr: unknown key; did you mean optimizer.lr?"
    ]
    assert problems(write(BASIC + "optimizer: {train_batch_size: 1}\n")) == [
        "recipe.yaml:3: optimizer.train_batch_size: here it is batch.samples"
    ]


def test_a_file_must_name_model_and_data_but_a_resolved_one_may_leave_them_to_python(write):
    assert problems(write("epochs: 1\n")) == [
        "recipe.yaml: model: is missing; expected a hub name or a folder, such as `model: bert-base-uncased`",
        "recipe.yaml: data.train: is missing; expected file(s), such as `train: reviews.csv`",
    ]
    assert load_recipe({"epochs": 1}).model.name is None
    live = write(dump_recipe(load_recipe({"epochs": 1})), "resolved.yaml")
    assert load_recipe(live) == load_recipe({"epochs": 1})
    assert (
        load_recipe(write("model: {init: random, config: {model_type: bert}}\ndata: {train: t}\n")).model.name
        is None
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "model: is missing"),
        ("- a\n", "recipe.yaml:1: found a list; expected a mapping"),
        ("model: [\n", "not valid YAML"),
        (
            "data: tweets.csv\nmodel: a\n",
            "recipe.yaml:1: data: found 'tweets.csv' (text); expected a mapping of train",
        ),
        ("extends: 3\n", "recipe.yaml:1: extends: found a number; expected a file name"),
        ("extends: other.yaml\n", "recipe.yaml:1: extends: no such file: other.yaml"),
        ("extends: recipe.yaml\n", "extends this file again"),
    ],
)
def test_files_that_are_no_recipe(write, text, expected):
    assert any(expected in line for line in problems(write(text)))


def test_a_file_that_is_not_there_names_the_nearest(write, tmp_path):
    write(BASIC, "tweets.yaml")
    assert problems("tweet.yaml") == ["tweet.yaml: no such file; did you mean tweets.yaml?"]
    assert problems(tmp_path) == [f"{tmp_path}: is a folder; expected a plain file"]
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9\n")
    assert problems("latin.yaml") == ["latin.yaml: not UTF-8: byte 10 is 0xe9"]
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + BASIC.encode())
    assert load_recipe("bom.yaml").model.name == "a/b"


# ---------------------------------------------------------------- layers


def test_each_layer_wins_over_those_below(write, tmp_path):
    write("model: base\nclip: 1\nseed: 1\nrun: {keep: 1}\ndata: {train: t}\n", "base.yaml")
    write("extends: base.yaml\nclip: 2\nseed: {data: 2}\nrun: {keep: 2}\n", "recipe.yaml")
    site = tmp_path / write("plan: {threads: 1, micro_tokens: 7}\nrun: {root: /big}\n", "site.yaml")
    environ = {
        "BIGBATCH_CLIP": "3",
        "BIGBATCH_RUN__KEEP": "3",
        "BIGBATCH_PLAN__THREADS": "3",
        "BIGBATCH_SITE": str(site),
    }
    recipe = load_recipe("recipe.yaml", ["run.keep=4"], environ=environ)
    assert recipe.model.name == "base"
    assert (recipe.seed.model, recipe.seed.data, recipe.clip, recipe.run.keep) == (1, 2, 3.0, 4)
    assert (recipe.plan.threads, recipe.plan.micro_tokens, recipe.run.root) == (3, 7, "/big")


def test_the_site_file_may_set_little_and_is_found_at_home(write, tmp_path):
    write(BASIC)
    folder = tmp_path / ".config" / "bigbatch"
    folder.mkdir(parents=True)
    (folder / "site.yaml").write_text("plan: {threads: 5}\n")
    assert load_recipe("recipe.yaml", environ={"HOME": str(tmp_path)}).plan.threads == 5
    assert load_recipe("recipe.yaml", environ={}).plan.threads is None
    (folder / "site.yaml").write_text("batch: 3\nrun: {root: /x, keep: 3}\n")
    name = str(folder / "site.yaml")
    only = "a site file may set plan, launch, observers and run.root only"
    assert problems("recipe.yaml", environ={"HOME": str(tmp_path)}) == [
        f"{name}:1: batch: {only}",
        f"{name}:2: run.keep: {only}",
    ]
    assert problems("recipe.yaml", environ={"BIGBATCH_SITE": "gone.yaml"})[0].startswith(
        "gone.yaml: no such file"
    )


LENGTHS = ["epochs", "updates", "samples", "tokens"]


@given(st.sampled_from(LENGTHS), st.sampled_from(LENGTHS), st.integers(1, 99), st.integers(1, 99))
def test_a_higher_layer_replaces_its_siblings(low, high, low_value, high_value):
    recipe = load_recipe({low: low_value}, [f"{high}={high_value}"])
    assert (recipe.length.unit, recipe.length.amount) == (high, high_value)


@given(
    st.sampled_from(["batch", "batch.samples", "batch.tokens"]),
    st.sampled_from(["batch", "batch.samples", "batch.tokens"]),
)
def test_short_and_long_forms_of_the_batch_are_one_key(low, high):
    recipe = load_recipe({}, [f"{high}=7"], environ={"BIGBATCH_" + low.upper().replace(".", "__"): "5"})
    assert (recipe.batch.tokens if high == "batch.tokens" else recipe.batch.samples) == 7
    assert None in (recipe.batch.tokens, recipe.batch.samples)


def test_two_alternatives_in_one_layer_are_an_error():
    assert problems({"epochs": 1, "updates": 2}) == [
        "recipe: found epochs and updates together; expected one of them"
    ]
    assert problems({}, ["batch.samples=1", "batch.tokens=2"]) == [
        "command line: batch: found samples and tokens together; expected one of them"
    ]
    assert load_recipe({"epochs": None, "updates": 2}).updates == 2


def test_a_short_form_on_the_command_line_leaves_room_for_its_options():
    recipe = load_recipe({}, ["optimizer=lamb", "optimizer.lr=1e-3", "schedule.warmup=6 %"])
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("lamb", 1e-3)


def test_a_new_name_keeps_common_options_and_drops_its_predecessors_own():
    low = {
        "optimizer": {"name": "o.py:A", "lr": 3, "args": {"x": 1}},
        "task": {"name": "t.py:T", "args": {"y": 1}},
    }
    recipe = load_recipe(low, ["optimizer.name=lamb", "task=classify"])
    assert (recipe.optimizer.lr, recipe.optimizer.args, recipe.task.args) == (3.0, {}, {"kind": "single"})
    assert load_recipe(low, ["optimizer.name=o.py:A"]).optimizer.args == {"x": 1}


def test_validation_sets_are_replaced_as_a_whole():
    low = {"data": {"validation": {"a": "a.csv", "b": "b.csv"}, "columns": {"text": "t", "label": "l"}}}
    recipe = load_recipe(low, ["data.validation={c: c.csv}", "data.columns.text=u"])
    assert list(recipe.data.validation) == ["c"]
    assert recipe.data.columns == {"text": "u", "label": "l"}


def test_overrides_as_a_mapping():
    recipe = load_recipe({}, {"batch.samples": 4096, "optimizer": "lamb", "data.train": ["a.csv"]})
    assert (recipe.batch.samples, recipe.optimizer.name, recipe.data.train[0].path) == (4096, "lamb", "a.csv")


def test_files_of_an_extended_recipe_keep_their_folder(write, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model").mkdir()
    base = "model: model\ndata: {train: [t.csv, /abs.csv], validation: {a: v.csv}}\nloss: 'l.py:focal'\n"
    (tmp_path / "base" / "base.yaml").write_text(base)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text("extends: ../base/base.yaml\ndata: {test: here.csv}\n")
    recipe = load_recipe("jobs/job.yaml")
    assert [file.path for file in recipe.data.train] == ["../base/t.csv", "/abs.csv"]
    assert recipe.data.validation["a"][0].path == "../base/v.csv"
    assert (recipe.model.name, recipe.loss.name) == ("../base/model", "../base/l.py:focal")
    assert recipe.data.test[0].path == "here.csv"


def test_a_problem_in_an_extended_file_is_named_there(write):
    write("model: a\nbatch: {sample: 3}\n", "base.yaml")
    write("extends: base.yaml\ndata: {train: t}\n")
    assert problems("recipe.yaml") == ["base.yaml:2: batch.sample: unknown key; did you mean batch.samples?"]


# ---------------------------------------------------------------- writing

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
PATHS = WORDS.filter(lambda text: not text.startswith("hf://"))
RECIPES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries(
            {"name": WORDS}, optional={"config": st.dictionaries(WORDS, WORDS | st.integers())}
        ),
        "data": st.fixed_dictionaries(
            {"train": st.lists(PATHS, min_size=1, max_size=3)},
            optional={
                "columns": st.fixed_dictionaries({"text": WORDS, "label": WORDS}),
                "validation": st.floats(0.01, 0.99)
                | st.dictionaries(WORDS.filter(lambda w: w != "path"), PATHS),
                "max_length": st.integers(1, 10**6),
            },
        ),
        "batch": st.integers(1, 10**9) | st.fixed_dictionaries({"tokens": st.integers(1, 10**9)}),
        "updates": st.integers(1, 10**9),
        "clip": st.none() | st.floats(1e-9, 1e9),
        "optimizer": st.sampled_from(["adamw", "lamb", "sgd"])
        | st.fixed_dictionaries({"lr": st.floats(1e-12, 1.0)}),
        "schedule": st.fixed_dictionaries(
            {"warmup": st.sampled_from(["6 %", "10 updates", 0, "0.5 epochs"])}
        ),
        "loss": st.fixed_dictionaries({"class_weights": st.dictionaries(WORDS, st.floats(0, 9), min_size=1)}),
        "task": st.fixed_dictionaries({"kind": st.sampled_from(["single", "multi", "regression"])}),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@given(RECIPES)
def test_a_written_recipe_loads_back_equal(tmp_path_factory, values):
    recipe = load_recipe(values)
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert dump_recipe(load_recipe(path)) == dump_recipe(recipe)


def test_a_written_recipe_spells_out_every_default():
    text = dump_recipe(load_recipe({"batch": 64, "updates": 5}))
    for line in (
        "lr: 5e-05",
        "eps: 1e-08",
        "warmup: 6 %",
        "checkpoint_every: 5 min",
        "clip: 1.0",
        "seed:",
        "guard:",
    ):
        assert line in text
    assert "epochs: null" not in text
    assert "\n  tokens:" not in text


def test_recipes_are_equal_by_their_keys_not_their_place(write):
    path = write(BASIC)
    assert load_recipe(path) == Recipe.model_validate({"model": "a/b", "data": {"train": "t.csv"}})
    assert load_recipe(path) != load_recipe(path, ["clip=2"])
    assert load_recipe(path).source.name == "recipe.yaml"


def test_loading_leaves_the_mapping_alone():
    values = {"data": {"text": "a", "train": ["x"]}, "batch": 3}
    before = copy.deepcopy(values)
    load_recipe(values, ["batch=4"])
    assert values == before

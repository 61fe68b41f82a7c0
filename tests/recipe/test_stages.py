from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.errors import RecipeError
from bigbatch.recipe.load import dump_recipe, load_recipe
from bigbatch.recipe.schema import Recipe
from bigbatch.store.identity import fingerprint

TEXT = """\
model: {name: base, revision: r1, trainable: all}
data: {train: t.csv, columns: {text: tweet, label: mood}}
batch: 32
stages:
  - {name: words, task: {name: mlm, probability: 0.2}, epochs: 1, data: {train: raw.txt}}
  - task: classify
    updates: 5
    optimizer: {lr: 1e-4}
run: {dir: runs/x}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT)
    return file


def stages(path: Path, *overrides: str, **options) -> list[Recipe]:
    return [stage.recipe for stage in load_recipe(path, overrides, **options).stages]


def test_an_entry_overrides_the_top_level_and_each_layer_the_one_below(path):
    first, second = stages(path)
    assert (first.task.name, first.task.args["probability"], first.epochs, first.batch.samples) == (
        "mlm",
        0.2,
        1,
        32,
    )
    assert (second.task.name, second.updates, second.epochs, second.optimizer.lr) == (
        "classify",
        5,
        None,
        1e-4,
    )
    assert [first.data.train[0].path, second.data.train[0].path] == ["raw.txt", "t.csv"]
    assert [stage.folder for stage in load_recipe(path).stages] == ["1-words", "2-classify"]

    words = ("seed=3", "stages.words.seed=4", "stages.1.batch.tokens=99", "updates=7")
    first, second = stages(path, *words, environ={"BIGBATCH_STAGES__0__BATCH": "8", "BIGBATCH_SEED": "9"})
    assert (first.seed.model, second.seed.model, first.updates, first.epochs) == (4, 3, 7, None)
    assert (first.batch.samples, second.batch.samples, second.batch.tokens) == (8, None, 99)
    assert [len(stages(path, word)) for word in ("stages=[{task: clm}]", "stages=[{},{},{}]")] == [1, 3]


def test_what_is_dumped_reads_back_equal_and_each_stage_has_its_own_fingerprint(path, tmp_path):
    recipe = load_recipe(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe
    assert load_recipe(path, ["stages.0.seed=1"]) != recipe
    what = fingerprint(recipe).what
    assert (what["stages.0.task.name"], what["stages.1.optimizer.lr"]) == ("mlm", 1e-4)


def test_a_placed_stage_starts_from_the_folder_before_and_from_nothing_else(path, tmp_path):
    first, second = load_recipe(path).stages
    placed = second.placed_in(tmp_path / "run", tmp_path / "run/stages/1-words/model", "digest")
    assert placed.model.name == str(tmp_path / "run/stages/1-words/model")
    assert (placed.model.revision, placed.model.tokenizer, placed.model.init, placed.model.config) == (
        None, None, "pretrained", {},
    )  # fmt: skip
    assert placed.run_folder == tmp_path / "run" / "stages" / "2-classify"
    assert placed.shared_folder == tmp_path and placed.before == "digest"
    assert first.placed_in(tmp_path / "run", None, None).model.revision == "r1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stages=[]"], "stages: is an empty list"),
        (["stages=mlm"], "stages: found text"),
        (["stages=[1]"], "stages[0]: found a number; expected a mapping"),
        (["stages=[{stages: [{}]}]"], "stages[0].stages: stages have no stages of their own"),
        (["stages.0=1"], "stages: found a mapping"),
        (["stages.2.epochs=1"], "stages.2: no such stage; there are 0 (words), 1 (classify)"),
        (["stages.1.optimizer.lrr=1"], "stages[1].optimizer.lrr: unknown key; did you mean optimizer.lr?"),
        (["stages.1.learning_rate=1"], "stages[1].learning_rate: here it is optimizer.lr"),
        (["stages.1.batch=-1"], "stages[1].batch: found -1"),
        (["batch=-1"], "command line: batch: found -1"),
        (["stages.1.model=x"], "stages[1].model: a stage starts from the model of the one before"),
        (["stages.1.model.config.a=1"], "stages[1].model.config: a stage starts from"),
        (["stages.0.run.dir=x"], "stages[0].run.dir: holds for all stages"),
        (["stages.0.launch.kind=slurm"], "stages[0].launch: holds for all stages"),
        (["stages.0.plan.ranks=2"], "stages[0].plan.ranks: holds for all stages"),
        (["stages.0.epochs=1", "stages.0.updates=2"], "stages[0]: found epochs and updates together"),
        (["stages=[{name: ../../etc}]"], "stages[0].name: found '../../etc'"),
        (["stages=[{name: ünï}]"], "stages[0].name: found"),
        (["stages=[{name: a}, {name: a}]"], "stages[1].name: a is taken"),
        (["stages..epochs=1"], "found an empty name in the key"),
    ],
)
def test_what_is_wrong_is_said_by_its_place(path, words, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, words)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_lines_of_the_file_and_a_recipe_without_stages(path, tmp_path):
    path.write_text(TEXT.replace("lr: 1e-4", "lrr: 1e-4").replace("probability", "probably"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert [(Path(each.where).name, each.key) for each in caught.value.problems] == [
        ("recipe.yaml:5", "stages[0].task.probably"),
        ("recipe.yaml:8", "stages[1].optimizer.lrr"),
    ]
    path.write_text("model: a\ndata: {train: t.csv}\n")
    with pytest.raises(RecipeError, match=r"stages\.0: this recipe has no stages"):
        load_recipe(path, ["stages.0.epochs=1"])
    site = tmp_path / "site.yaml"
    site.write_text("stages: [{task: mlm}]\n")
    with pytest.raises(RecipeError, match="a site file may set"):
        load_recipe(path, site=site)


def test_an_extended_recipe_may_have_the_stages(path, tmp_path):
    (tmp_path / "below").mkdir()
    path.rename(tmp_path / "below" / "base.yaml")
    above = tmp_path / "above.yaml"
    above.write_text("extends: below/base.yaml\nseed: 7\n")
    first, second = stages(above)
    assert [first.seed.model, first.data.train[0].path, second.data.train[0].path] == [
        7,
        "below/raw.txt",
        "below/t.csv",
    ]

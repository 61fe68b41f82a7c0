from __future__ import annotations

import json

import pytest

from bigbatch.build.inputs import Inputs, Live, local_model, model_digest, read_inputs
from bigbatch.build.live import live_task
from bigbatch.errors import DataError
from bigbatch.recipe.load import load_recipe
from bigbatch.tasks.catalog import task_from_recipe
from tests.models import tiny, tiny_folder

ROWS = [{"text": f"text {number}", "label": "abc"[number % 3]} for number in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("job")
    tiny_folder(place / "model", id2label={0: "c", 1: "a", 2: "b"})
    tiny_folder(place / "other", id2label={0: "x", 1: "y", 2: "z"})
    for name, rows in (("train", ROWS), ("copy", ROWS), ("hard", ROWS[:6]), ("test", ROWS[3:9])):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def inputs_of(folder, live=None, **keys) -> Inputs:
    """What a recipe in `folder` reads."""
    (folder / "job.yaml").write_text(json.dumps({"model": "model", "data": {"train": "train.jsonl"}}))
    recipe = load_recipe(folder / "job.yaml", {**keys}, environ={})
    live = live or Live()
    return read_inputs(recipe, live_task(recipe, live), live)


def test_splits_and_their_names(folder):
    keys = {"data.validation": {"main": "copy.jsonl", "hard": "hard.jsonl"}, "data.test": "test.jsonl"}
    found = inputs_of(folder, **keys)
    assert list(found.splits) == ["train", "validation", "validation.hard", "test"]
    assert [len(rows) for rows in found.splits.values()] == [30, 30, 6, 6]
    assert any("train" in warning for warning in found.warnings), "rows shared with training are counted"


def test_a_share_is_stratified_fixed_by_the_seed_and_taken_out_of_training(folder):
    found = inputs_of(folder, **{"data.validation": 0.2})
    held_out = found.validation["validation"]
    labels = held_out.rows.column("label").to_pylist()
    assert sorted(labels) == ["a", "a", "b", "b", "c", "c"]
    texts = [set(rows.rows.column("text").to_pylist()) for rows in (found.train, held_out)]
    assert not texts[0] & texts[1] and len(texts[0] | texts[1]) == 30
    again = inputs_of(folder, **{"data.validation": 0.2, "seed.model": 9})
    other = inputs_of(folder, **{"data.validation": 0.2, "seed.data": 9})
    assert again.digest == found.digest != other.digest


def test_the_digest_is_of_contents_not_of_names(folder):
    found = inputs_of(folder)
    assert inputs_of(folder, **{"data.train": "copy.jsonl"}).digest == found.digest
    assert inputs_of(folder, **{"data.train": "hard.jsonl"}).digest != found.digest
    assert inputs_of(folder, Live(train=ROWS)).digest == found.digest, "rows of Python are the same rows"
    assert inputs_of(folder, **{"data.test": "test.jsonl"}).digest != found.digest


def test_whose_order_of_labels(folder):
    assert inputs_of(folder).labels.names == ("c", "a", "b"), "a model that knows them keeps its order"
    assert inputs_of(folder, **{"model": "other"}).labels.names == ("a", "b", "c")
    asked = {"task": {"name": "classify", "labels": ["b", "c", "a"]}}
    assert inputs_of(folder, **asked).labels.names == ("b", "c", "a")
    live = Live(module=tiny("bert", id2label={0: "b", 1: "a", 2: "c"}))
    assert inputs_of(folder, live).labels.names == ("b", "a", "c")


def test_rows_of_python_replace_those_of_the_recipe(folder):
    found = inputs_of(folder, Live(train=ROWS[:9], validation=ROWS[9:15]), **{"data.validation": 0.5})
    assert (len(found.train), len(found.validation["validation"])) == (9, 6)


def test_bad_rows_of_every_split_are_named(folder):
    (folder / "bad.jsonl").write_text(
        '{"text": "fine", "label": "a"}\n{"text": "odd", "label": "unheard of"}\n'
    )
    with pytest.raises(DataError, match="unheard of"):
        inputs_of(folder, **{"data.test": "bad.jsonl"})


def test_a_source_of_a_mixture_has_rows(folder):
    (folder / "none.csv").write_text("text,label\n")
    files = [{"path": "train.jsonl", "share": 2}, {"path": "none.csv", "share": 1}]
    with pytest.raises(DataError, match=r"none.csv: data.train.share: no rows to draw from"):
        inputs_of(folder, **{"data.train": files})


def test_folders_are_relative_to_the_recipe_and_hub_names_stay(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (folder / "job.yaml").write_text(json.dumps({"model": "model", "data": {"train": "train.jsonl"}}))
    found = local_model(load_recipe(folder / "job.yaml", environ={}))
    assert found.name == str((folder / "model").resolve())
    hub = local_model(load_recipe(folder / "job.yaml", {"model": "org/name"}, environ={}))
    assert hub.name == "org/name"


def test_the_digest_of_a_model_follows_its_weights(folder):
    recipe = load_recipe(folder / "job.yaml", environ={})
    other = load_recipe(folder / "job.yaml", {"model": "other"}, environ={})
    assert model_digest(recipe, Live()) == model_digest(recipe, Live()) != model_digest(other, Live())
    module = tiny("bert")
    before = model_digest(recipe, Live(module=module))
    assert before == model_digest(recipe, Live(module=tiny("bert"))) != model_digest(recipe, Live())
    module.classifier.bias.data[0] += 1e-7
    assert model_digest(recipe, Live(module=module)) != before


@pytest.mark.parametrize("task", ["mlm", "clm"])
def test_a_running_text_is_validated_on_its_last_lines(tmp_path, task):
    lines = [f"line {number}" for number in range(20)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    base = {"model": "m", "data": {"train": str(tmp_path / "a.txt"), "validation": 0.2}}

    def read(options):
        recipe = load_recipe({**base, "task": options})
        return read_inputs(recipe, task_from_recipe(recipe), Live())

    fixed = read({"name": task, "blocks": "fixed"})
    assert fixed.validation["validation"].rows.column("text").to_pylist() == lines[16:]
    assert fixed.train.rows.column("text").to_pylist() == lines[:16]
    assert read(task).validation["validation"].rows.column("text").to_pylist() != lines[16:]

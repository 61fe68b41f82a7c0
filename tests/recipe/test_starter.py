from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import DataError, UsageError
from bigbatch.recipe.findings import Findings
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.model_facts import ModelChoice
from bigbatch.recipe.starter import split_files, starter_recipe, write_starter


def start(tmp_path, **changes):
    found = dict(
        files=(str(tmp_path / "tweets.csv"),),
        out=tmp_path / "recipe.yaml",
        text="tweet",
        label="sentiment",
        rows=13456,
    )
    text = starter_recipe(Findings(**(found | changes)))
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return text, load_recipe(tmp_path / "recipe.yaml")


def test_the_recipe_loads_and_says_what_was_found(tmp_path):
    text, recipe = start(
        tmp_path,
        class_counts={"negative": 9000, "neutral": 2456, "positive": 2000},
        lengths={"p50": 17, "p99": 31},
        language="en",
        id="tweet_id",
    )
    assert recipe.data.train[0].path == str(tmp_path / "tweets.csv")
    assert recipe.data.columns == {"text": "tweet", "label": "sentiment", "id": "tweet_id"}
    assert (recipe.data.validation, recipe.batch.samples, recipe.epochs) == (0.1, "auto", "auto")
    assert (recipe.loss.class_weights, recipe.best.metric, recipe.run.dir) == (
        "none",
        "f1_macro",
        "runs/tweets",
    )
    assert (recipe.optimizer.lr, recipe.schedule.name, recipe.is_auto) == ("auto", "wsd", True)
    assert recipe.model.name == "distilbert-base-uncased"
    for part in (
        "12,110 training rows",
        "negative 9,000 (67%)",
        "words a row: p50 17, p99 31",
        "4.5 times the rows",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("kind", "best"), [("single", "f1_macro"), ("multi", "f1_macro"), ("regression", "r2")]
)
def test_kinds(tmp_path, kind, best):
    _, recipe = start(tmp_path, kind=kind, pair="premise", model="./folder", encoding="latin-1")
    assert (recipe.task.args["kind"], recipe.best.metric) == (kind, best)
    assert (recipe.model.name, recipe.data.encoding, recipe.data.columns["pair"]) == (
        "./folder",
        "latin-1",
        "premise",
    )


def test_files_are_told_apart_by_their_names(tmp_path, monkeypatch):
    assert split_files(("train.csv", "my-test.csv", "dev.jsonl", "validation.csv", "latest.csv")) == {
        "train": ["train.csv", "latest.csv"],
        "validation": ["dev.jsonl", "validation.csv"],
        "test": ["my-test.csv"],
    }
    assert split_files(("test.csv",))["train"] == ["test.csv"]
    monkeypatch.chdir(tmp_path)
    _, recipe = start(tmp_path, files=("data/train.csv", "data/test.csv", "data/val.csv"))
    assert recipe.data.validation["main"][0].path == "data/val.csv"
    assert recipe.data.test[0].path == "data/test.csv"


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    text = starter_recipe(
        Findings(files=("t.csv",), out=tmp_path / "jobs" / "r.yaml", text="a", label="b", rows=9)
    )
    assert "train: ../t.csv" in text
    (tmp_path / "tiny").mkdir()
    found = Findings(files=("t.csv",), out=Path("jobs/r.yaml"), text="a", label="b", rows=9, model="tiny")
    assert "model: ../tiny\n" in starter_recipe(found)


NASTY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(column=NASTY, label=NASTY, name=NASTY)
def test_no_column_label_or_name_breaks_out_of_its_place(tmp_path_factory, column, label, name):
    folder = tmp_path_factory.getbasetemp()
    _, recipe = start(
        folder,
        text=column,
        label=column,
        model=name,
        class_counts={label: 100, "b\nplan: {threads: 3}": 1},
        language=label,
    )
    assert recipe.data.columns == {"text": column, "label": column}
    assert (recipe.model.name, recipe.plan.threads) == (name, None)


def a_profile(**changes):
    found = dict(
        files=("t.csv",), rows=400, columns={"text": "tweet", "label": "mood"}, all_columns=("tweet", "mood", "x"),
        kind="single", encoding="utf-8", language="unknown", class_counts={"a": 300, "b": 90}, words={"p50": 9.0},
        empty_texts=3, missing_labels=2, warnings=("odd",), running=None,
    )  # fmt: skip
    return SimpleNamespace(**(found | changes))


def test_writing_says_what_was_found_and_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = write_starter(
        Path("r.yaml"),
        a_profile(),
        files=["t.csv", Path("t-test.csv")],
        model=ModelChoice(name="m", said=("a model",)),
    )
    assert lines == [
        "t.csv, t-test.csv: 400 rows; text: tweet, label: mood; single",
        "words a row: p50 9",
        "labels: a 300 (77%), b 90 (23%)",
        "warning: odd",
        "warning: 2 rows have no label; training refuses them",
        "a model",
        "wrote r.yaml",
        "next: bigbatch train r.yaml",
    ]
    recipe = load_recipe("r.yaml")
    assert (recipe.data.empty_text, recipe.data.test[0].path, recipe.loss.class_weights) == (
        "drop",
        "t-test.csv",
        "none",
    )


def test_an_existing_recipe_is_kept_unless_forced(tmp_path):
    out = tmp_path / "r.yaml"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists; give another name"):
        write_starter(out, a_profile())
    assert out.read_text() == "mine"
    write_starter(out, a_profile(), force=True)
    assert load_recipe(out).batch.samples == "auto"
    with pytest.raises(UsageError, match="cannot be written"):
        write_starter(tmp_path / "no" / "r.yaml", a_profile())


def test_columns_that_were_not_found_are_an_error_that_lists_what_is_there(tmp_path):
    with pytest.raises(DataError) as caught:
        write_starter(tmp_path / "r.yaml", a_profile(columns={"label": "mood"}))
    assert str(caught.value).startswith("t.csv: text: no column looks like it; there are tweet, mood, x.")
    assert not (tmp_path / "r.yaml").exists()


def test_preferences_are_learnt_from_their_three_columns(tmp_path):
    columns = {"prompt": "asked", "chosen": "good", "rejected": "bad"}
    said = write_starter(tmp_path / "r.yaml", a_profile(columns=columns, all_columns=tuple(columns.values())))
    assert "preferences (task: prefer)" in said[0]
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.task.name, dict(recipe.data.columns)) == ("prefer", columns)
    assert recipe.best.metric == "accuracy"


def test_without_a_label_the_text_itself_is_learnt(tmp_path):
    said = write_starter(tmp_path / "r.yaml", a_profile(columns={"text": "tweet"}, missing_labels=3))
    assert "no label column: masked language modelling (task: mlm)" in said[0]
    assert not any("have no label" in line for line in said)
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.task.name, recipe.task.args["probability"]) == ("mlm", 0.15)
    assert (recipe.best.metric, recipe.data.validation, recipe.data.columns) == (
        "perplexity",
        0.1,
        {"text": "tweet"},
    )


def test_what_training_will_refuse_is_said_at_once(tmp_path):
    def said(**changes):
        found = a_profile(**{"warnings": (), "missing_labels": 0, "empty_texts": 0, **changes})
        return [line for line in write_starter(tmp_path / "r.yaml", found, force=True) if "warning" in line]

    assert said() == []
    assert said(class_counts={"a": 400}) == ["warning: every row has the label 'a'; training refuses that"]
    few = "rows are too few to hold some out for validation; name a file under data.validation"
    assert said(rows=2, class_counts={"a": 1, "b": 1}) == [f"warning: 2 {few}"]
    assert said(empty_texts=400) == [f"warning: 0 {few}"]


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, (360, 40)),
        ({"rows": 300, "class_counts": {f"c{n}": 1 + n % 3 for n in range(150)}}, (200, 100)),
        ({"rows": 10, "class_counts": {"a": 5, "b": 5}}, (8, 2)),
        ({"empty_texts": 100, "columns": {"text": "tweet"}, "class_counts": {}}, (270, 30)),
    ],
)
def test_the_rows_that_auto_is_told_are_those_of_the_split(tmp_path, changes, rows):
    found = {"rows": 400, "class_counts": {"a": 300, "b": 100}, "empty_texts": 0, **changes}
    told = []

    def first(*known):
        told.append(known[:2])
        return SimpleNamespace(
            first_batch=1, last_batch=1, batch_reason="", epochs=1, epochs_reason="", measured=False
        )

    write_starter(tmp_path / "r.yaml", a_profile(**found), first=first)
    assert told == [rows]


def test_text_without_labels_becomes_a_stage_of_its_own(tmp_path):
    def profile(files, columns, **changes):
        plain = dict(
            rows=400, all_columns=tuple(columns.values()), kind="single", encoding="utf-8", language="en",
            class_counts={}, words={}, empty_texts=0, missing_labels=0, warnings=(), running=None,
        )  # fmt: skip
        return SimpleNamespace(files=files, columns=columns, **(plain | changes))

    labelled = profile(("t.csv",), {"text": "tweet", "label": "mood"}, class_counts={"a": 200, "b": 200})
    text = profile((str(tmp_path / "raw.txt"),), {"text": "text"})
    out = tmp_path / "recipe.yaml"
    write_starter(out, labelled, pretrain=text)
    first, second = (stage.recipe for stage in load_recipe(out).stages)
    assert (first.task.name, first.epochs, first.best.metric) == ("mlm", 1, None)
    assert (second.task.name, second.best.metric, second.data.columns["text"]) == (
        "classify",
        "f1_macro",
        "tweet",
    )
    assert (first.data.train[0].path, first.data.columns["text"]) == (str(tmp_path / "raw.txt"), "text")
    with pytest.raises(DataError, match="Expected text to pretrain on"):
        write_starter(out, labelled, pretrain=profile(("x.csv",), {"label": "n"}), force=True)

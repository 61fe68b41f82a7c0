"""Changed keys and settings on their way to other processes: out of sight, and none is lost."""

from __future__ import annotations

import os

import pytest

from bigbatch.errors import MachineError, Problem, RecipeError, UsageError
from bigbatch.launch.passed import (
    CHANGES_WORD,
    RESOLVED,
    refuse_other_recipe,
    resolved_keys,
    settings_of,
    stowed,
    unstowed,
    write_resolved,
)
from bigbatch.launch.start import launched
from bigbatch.recipe.load import load_recipe

RECIPE = {"model": "m", "task": "classify", "data": {"train": "a.csv"}, "batch": 8, "updates": 2}
WORKER = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_changes_go_in_a_variable_and_come_back():
    changes = ["loss.args.key=a secret", "batch.samples=8\n"]
    words, carried = stowed(["train", "r.yaml", "--resume"], changes)
    assert words == ["train", "r.yaml", "@changes", "--resume"]
    assert unstowed(["updates=1", "@changes"], carried) == ["updates=1", *changes]
    assert load_recipe(RECIPE, ["batch.samples=8"], environ=carried).batch.samples == 8
    assert stowed(["train", "r.yaml"], []) == (["train", "r.yaml"], {})
    with pytest.raises(UsageError, match="did not come along"):
        unstowed(["@changes"], {})


@pytest.mark.parametrize(
    "name", ["BIGBATCH_TOKENS", "BIGBATCH_LOSS__ARGS__API_KEY", "TOKENIZERS_PARALLELISM"]
)
def test_a_setting_is_passed_on_whatever_is_in_its_name(name):
    assert settings_of({name: "1"}) == {name: "1"}


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HF_API_KEY", "HTTPS_PROXY", "BIGBATCH_WORKER", "AWS_SECRET_KEY"]
)
def test_a_credential_is_not(name):
    assert settings_of({name: "1"}) == {}


def test_a_worker_that_resolves_something_else_ends_before_step_0(tmp_path):
    """One variable that got lost on the way is enough."""
    write_resolved(tmp_path, load_recipe(RECIPE, environ={"BIGBATCH_OPTIMIZER__LR": "0.5"}))
    assert "0.5" not in (tmp_path / "resolved.json").read_text()
    environ = {**WORKER, "BIGBATCH_WORKER": str(tmp_path)}
    with pytest.raises(UsageError, match=r": optimizer\.lr differ;"):
        launched(load_recipe(RECIPE), ["train", "r.yaml"], None, environ, print)
    same = load_recipe(RECIPE, {"optimizer.lr": 0.5})
    assert launched(same, ["train", "r.yaml"], None, environ, print) is None
    refuse_other_recipe(tmp_path / "of another launcher", load_recipe(RECIPE))


def test_what_only_a_launcher_reads_may_differ():
    here = resolved_keys(load_recipe(RECIPE, {"launch.hosts": ["a"], "launch.slurm.nodes": 3}))
    assert here == resolved_keys(load_recipe(RECIPE))
    assert here != resolved_keys(load_recipe(RECIPE, {"launch.grace": "10 s"}))


def test_errors_repeat_no_credentials():
    """A library's message about a hub or a proxy holds its address."""
    said = "Client error '404' for url 'https://me:pw@hub.lab/api' through http://me@proxy:80/; mail me@x.org"
    expected = "Client error '404' for url 'https://hub.lab/api' through http://proxy:80/; mail me@x.org"
    assert str(UsageError(said)) == expected
    assert str(RecipeError([Problem(where="r.yaml", what=said)])) == f"r.yaml: {expected}"


@pytest.mark.parametrize("came", ["", "[" * 100_000, '{"a": 1}', "[1]", "null", "x"])
def test_changed_keys_that_no_launcher_wrote_are_refused(came):
    with pytest.raises(UsageError, match="BIGBATCH_CHANGES"):
        unstowed([CHANGES_WORD], {"BIGBATCH_CHANGES": came})


@pytest.mark.parametrize("content", ["", "[" * 100_000, "[]", '{"a": 1}', "a named pipe"])
def test_a_damaged_word_of_the_launcher_is_no_recipe_of_the_users(tmp_path, content):
    if content == "a named pipe":
        os.mkfifo(tmp_path / RESOLVED)
    else:
        (tmp_path / RESOLVED).write_text(content)
    with pytest.raises(MachineError, match="resolved.json"):
        refuse_other_recipe(tmp_path, load_recipe({"model": "a/b"}))

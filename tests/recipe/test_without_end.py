"""Recipes without an end, in every place that one is read from: refused at once, with the place and the reason."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bigbatch.errors import RecipeError
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.references import referenced_files, resolve_reference

BASIC = "model: a/b\ndata: {train: t.csv}\n"
DIGITS = "9" * 4301


def refused(*args, seconds: float = 5.0, **kwargs) -> str:
    """What is said; a fault that is not mended would take a minute, or for ever."""
    begun = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(*args, **kwargs)
    assert time.process_time() - begun < seconds
    assert len(str(caught.value)) < 100_000
    return str(caught.value)


def no_file(path: Path, kind: str) -> None:
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(3 * 10**9)


KINDS = ("a named pipe", "a folder", "a device", "at most")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["recipe", "extends", "site"])
def test_what_is_no_plain_file_is_no_recipe(tmp_path, place, kind):
    no_file(tmp_path / "strange.yaml", kind)
    (tmp_path / "recipe.yaml").write_text(BASIC + ("extends: strange.yaml\n" if place == "extends" else ""))
    site = tmp_path / "strange.yaml" if place == "site" else None
    said = refused(tmp_path / ("strange.yaml" if place == "recipe" else "recipe.yaml"), site=site)
    assert "strange.yaml" in said and kind in said


@pytest.mark.parametrize(
    ("count", "said"), [(110_000, "more than 100,000 values"), (30_000, "29,900 more problems")]
)
def test_tens_of_thousands_of_keys_are_refused_in_seconds(tmp_path, count, said):
    """What is measured is the time of the process, so that a busy machine does not fail it."""
    path = tmp_path / "recipe.yaml"
    path.write_text(BASIC + "".join(f"a{n:x}:\n" for n in range(count)))
    assert said in refused(path, seconds=20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip: " + "[" * 5_000, "nested"),
        ("clip: " + "{a: " * 5_000, "nested"),
        (f"updates: {DIGITS}\n", "updates"),
        (f"seed: {DIGITS}\n", "seed"),
        ("plan: {memory: 1e400}\n", "plan.memory"),
        ("plan: {memory: .inf}\n", "plan.memory"),
        ("optimizer: {lr: 1e400}\n", "optimizer.lr"),
    ],
)
def test_depth_and_numbers_without_end(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(BASIC + text)
    found = refused(path)
    assert "recipe.yaml:3" in found and said in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("clip=" + "[" * 100_000, "nested"),
        ("clip=" + "{a: " * 20_000, "nested"),
        (".".join("a" * 60_000) + "=1", "60,000 parts"),
        ("updates=" + DIGITS, "updates"),
        ("plan.memory=1e400", "plan.memory"),
        ("=1", "="),
        ("a..b=1", "empty name"),
    ],
)
def test_changed_keys_without_end(tmp_path, change, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(BASIC)
    assert said in refused(path, [change])
    key, _, value = change.partition("=")
    if key and ".." not in key and len(key) < 1_000:  # others are no names of variables
        assert said in refused(path, environ={"BIGBATCH_" + key.upper().replace(".", "__"): value})


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_no_code(tmp_path, kind):
    no_file(tmp_path / "own.py", kind)
    (tmp_path / "recipe.yaml").write_text(BASIC + "loss: own.py:loss\n")
    with pytest.raises(RecipeError, match=kind) as caught:
        referenced_files(load_recipe(tmp_path / "recipe.yaml"))
    assert "loss: own.py:loss" in str(caught.value)
    with pytest.raises(RecipeError, match=kind):
        resolve_reference("own.py:loss", tmp_path)

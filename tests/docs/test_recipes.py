"""Every recipe that is shipped or shown is valid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.docs.pages import all_pages, blocks

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "examples").glob("*/*.yaml"))
SHOWN = [
    (page, block.body)
    for page in all_pages(ROOT)
    for block in blocks(page)
    if block.language == "yaml" and "model" in yaml.safe_load(block.body)
]


def test_there_are_some():
    assert SHIPPED
    assert SHOWN


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_recipes_load_and_survive_a_dump(path, tmp_path):
    from bigbatch.recipe.load import dump_recipe, load_recipe

    recipe = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe


@pytest.mark.parametrize("page, text", SHOWN, ids=[page.name for page, _ in SHOWN])
def test_recipes_on_pages_load(page, text, tmp_path):
    from bigbatch.recipe.load import load_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    written = yaml.safe_load(text)["model"]
    assert load_recipe(path).model.name == (written["name"] if isinstance(written, dict) else written)

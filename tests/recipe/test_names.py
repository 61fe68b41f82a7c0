"""What a recipe may say that becomes a word of ssh or a line of a batch script."""

from __future__ import annotations

import pytest

from bigbatch.errors import RecipeError
from bigbatch.recipe.load import dump_recipe, load_recipe
from bigbatch.recipe.names import job_name

BASE = "model: m\ndata: {train: a.csv}\n"


@pytest.fixture
def recipe(tmp_path):
    def write(text: str, name: str = "r.yaml"):
        path = tmp_path / name
        path.write_text(BASE + text)
        return path

    return write


def test_a_recipe_cannot_bring_lines_of_a_batch_script(recipe, tmp_path):
    evil = recipe("launch:\n  slurm:\n    setup: [touch owned]\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:4: launch\.slurm: becomes lines of a batch script"):
        load_recipe(evil)
    recipe("extends: r.yaml\n", "child.yaml")
    with pytest.raises(RecipeError, match=r"r\.yaml:4: launch\.slurm"):
        load_recipe(tmp_path / "child.yaml")


def test_the_user_can(recipe, tmp_path):
    """Site file, variable, command line, Python."""
    path = recipe("")
    site = tmp_path / "site.yaml"
    site.write_text("launch: {slurm: {setup: [module load cuda]}}\n")
    assert load_recipe(path, site=site).launch.slurm.setup == ["module load cuda"]
    environ = {"BIGBATCH_LAUNCH__SLURM__PARTITION": "gpu"}
    assert load_recipe(path, environ=environ).launch.slurm.partition == "gpu"
    assert load_recipe(path, ["launch.slurm.nodes=3"]).launch.slurm.nodes == 3
    assert load_recipe({"launch": {"slurm": {"nodes": 3}}}).launch.slurm.nodes == 3


def test_a_resolved_recipe_leaves_them_out_and_an_older_one_with_defaults_is_read(recipe, tmp_path):
    path = recipe("")
    text = dump_recipe(load_recipe(path, ["launch.slurm.partition=gpu"]))
    assert "slurm:" not in text
    (tmp_path / "resolved.yaml").write_text(text)
    assert load_recipe(tmp_path / "resolved.yaml") == load_recipe(path)
    old = recipe("launch: {slurm: {partition: null, nodes: 1, options: [], setup: []}}\n", "old.yaml")
    assert load_recipe(old) == load_recipe(path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bigbatch-tweets", "bigbatch-tweets"),
        ("a\n#SBATCH --x", "a-SBATCH---x"),
        ("$(x)`y`", "x-y"),
        ("\0", "job"),
    ],
)
def test_a_jobs_name_is_reduced(text, name):
    assert job_name(text) == name

"""The first recipe of images: a folder of them, a table of paths, Parquet with bytes."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bigbatch.data.guess import profile
from bigbatch.errors import DataError
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.starter import write_starter
from bigbatch.recipe.starter_model import model_of_no_text


@pytest.fixture
def photos(tmp_path):
    for number in range(24):
        place = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(place)
    return tmp_path / "photos"


def check(found, tmp_path, **columns):
    assert found.columns == columns
    assert dict(found.class_counts) == {"cat": 12, "dog": 12}
    silent = model_of_no_text("image", lambda: False, lambda: "no answer")
    said = write_starter(tmp_path / "recipe.yaml", found, model=silent, force=True)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.task.name, recipe.data.columns, recipe.best.metric) == ("image", columns, "f1_macro")
    assert recipe.model.name == "google/vit-base-patch16-224"
    assert any("hf download google/vit-base-patch16-224" in line for line in said)
    text = (tmp_path / "recipe.yaml").read_text()
    assert "stratified by label" in text
    assert "words a row" not in text


def test_a_folder(photos, tmp_path):
    check(profile(photos), tmp_path, image="image", label="label", id="id")


def test_a_table_of_paths(photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    lines = [f"{file.relative_to(tmp_path)},{file.parent.name}" for file in files]
    (tmp_path / "rows.csv").write_text("\n".join(["where,what", *lines]))
    check(profile(tmp_path / "rows.csv"), tmp_path, image="where", label="what")


def test_bytes(photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    columns = {"picture": [file.read_bytes() for file in files], "kind": [file.parent.name for file in files]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    check(profile(tmp_path / "rows.parquet"), tmp_path, image="picture", label="kind")


def test_images_without_classes(photos, tmp_path):
    found = profile(photos / "cat")
    with pytest.raises(DataError, match="one folder of images a class"):
        write_starter(tmp_path / "recipe.yaml", found)


def test_a_text_that_ends_in_the_name_of_a_file_is_a_text(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\nsee photo.png,a\nnothing to see here,b\n" * 20)
    assert "text" in profile(tmp_path / "rows.csv").columns


def test_where_the_hub_answers():
    assert model_of_no_text("image", lambda: True, lambda: "").said == ()

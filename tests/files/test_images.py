"""Images in all forms that rows have them, and the readers that find them."""

from __future__ import annotations

import gzip
import io
import os
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bigbatch.data.checks import check_splits
from bigbatch.data.labels import LabelSet
from bigbatch.data.sources import read_table
from bigbatch.errors import DataError
from bigbatch.files.images import content_of_image, encoded, image_of
from bigbatch.tasks.image import Image as Task

ROLES = Task().roles


def png(path: Path, value: int = 0, size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path, "PNG")
    return path


def read(files, base: Path, **columns: str):
    return read_table(files, base=base, columns=columns, roles=ROLES)


def test_a_folder_of_folders(tmp_path):
    for value, name in enumerate(
        ["cat/1.png", "cat/deep/2.PNG", "dog/3.jpg.png", "dog/.hidden.png", ".cache/4.png"]
    ):
        png(tmp_path / "photos" / name, value)
    (tmp_path / "photos" / "dog" / "notes.txt").write_text("not an image")
    table = read("photos", tmp_path)
    assert table.rows.column("label").to_pylist() == ["cat", "cat", "dog"]
    assert table.rows.column("id").to_pylist() == ["cat/1.png", "cat/deep/2.PNG", "dog/3.jpg.png"]
    assert table.where(1) == "photos/cat/deep/2.PNG"


def test_paths_of_a_table_start_from_its_folder(tmp_path):
    png(tmp_path / "data" / "img" / "a.png")
    (tmp_path / "data" / "rows.csv").write_text("file_name,label\nimg/a.png,x\n")
    (image,) = read("data/rows.csv", tmp_path).rows.column("image").to_pylist()
    assert Path(image["path"]) == (tmp_path / "data/img/a.png").resolve()
    assert image["bytes"] is None


def test_paths_that_leave_the_folder_or_lead_nowhere_are_named_all_at_once(tmp_path):
    png(tmp_path / "secret.png")
    folder = tmp_path / "data"
    png(folder / "a.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    os.mkfifo(folder / "pipe.png")
    rows = [
        "a.png",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "gone.png",
        "circle.png",
        "pipe.png",
    ]
    (folder / "rows.csv").write_text("image,label\n" + "".join(f"{row},x\n" for row in rows))
    with pytest.raises(DataError) as caught:
        read("data/rows.csv", tmp_path)
    problems = [str(problem) for problem in caught.value.problems]
    assert [problem.split(": ")[0] for problem in problems] == [f"data/rows.csv:{row}" for row in range(3, 9)]
    assert all("outside" in problem for problem in problems[:3])
    assert "no such file" in problems[3]
    assert "named pipe" in problems[5]


def test_a_folder_of_images_is_not_left_by_links(tmp_path):
    png(tmp_path / "secret.png")
    png(tmp_path / "photos" / "x" / "a.png")
    (tmp_path / "photos" / "x" / "b.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="outside"):
        read("photos", tmp_path)


def test_parquet_with_bytes(tmp_path):
    content = png(tmp_path / "a.png").read_bytes()
    for number, column in enumerate(
        ([content], [{"bytes": content, "path": "a.png"}], [{"bytes": None, "path": "a.png"}])
    ):
        pq.write_table(pa.table({"image": column, "label": ["x"]}), tmp_path / f"{number}.parquet")
        (image,) = read(f"{number}.parquet", tmp_path).rows.column("image").to_pylist()
        assert content_of_image(image) == content


def idx(path: Path, values: np.ndarray) -> None:
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_idx_files(tmp_path):
    pixels = np.arange(3 * 2 * 5, dtype=np.uint8).reshape(3, 2, 5)
    idx(tmp_path / "train-images-idx3-ubyte.gz", pixels)
    idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([2, 0, 2], np.uint8))
    table = read("train-images-idx3-ubyte.gz", tmp_path)
    assert table.rows.column("label").to_pylist() == ["2", "0", "2"]
    opened = [Image.open(io.BytesIO(image["bytes"])) for image in table.rows.column("image").to_pylist()]
    assert np.array_equal(np.stack(list(map(np.asarray, opened))), pixels)


@pytest.mark.parametrize("cut", [2, 9, -1])
def test_a_damaged_idx_file(tmp_path, cut):
    path = tmp_path / "x-images-idx3-ubyte"
    idx(path, np.zeros((3, 2, 5), np.uint8))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read"):
        read(path.name, tmp_path)


def test_labels_of_another_number_than_images(tmp_path):
    idx(tmp_path / "x-images-idx3-ubyte", np.zeros((3, 2, 5), np.uint8))
    idx(tmp_path / "x-labels-idx1-ubyte", np.zeros(2, np.uint8))
    with pytest.raises(DataError, match="labels of shape"):
        read("x-images-idx3-ubyte", tmp_path)


def test_rows_of_python(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    rows = [
        {"image": pixels, "label": "a"},
        {"image": pixels.tolist(), "label": "b"},
        {"image": Image.fromarray(pixels), "label": "a"},
        {"image": encoded(pixels), "label": "b"},
        {"image": str(png(tmp_path / "a.png")), "label": "b"},
    ]
    images = read(rows, Path()).rows.column("image").to_pylist()
    found = [np.asarray(Image.open(io.BytesIO(content_of_image(image)))) for image in images]
    assert all(np.array_equal(each, pixels) for each in found[:4])
    assert not np.array_equal(found[4], pixels)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "found int"),
        (np.zeros((2, 2)), "whole numbers"),
        (np.full((2, 2), 300), "300"),
        (np.zeros((2, 2, 4), np.uint8), "channels"),
        ([[1, 2], [3]], "whole numbers"),
        (np.zeros(0, np.uint8), "whole numbers"),
    ],
    ids=str,
)
def test_what_is_no_image(value, said):
    with pytest.raises(ValueError, match=said):
        image_of(value, None)


def test_missing_images_are_named(tmp_path):
    (tmp_path / "rows.csv").write_text("image,label\n,x\n,y\n")
    table = read("rows.csv", tmp_path)
    with pytest.raises(DataError, match="empty image"):
        check_splits(table, {}, None, kind="single", labels=LabelSet(("x", "y")), roles=ROLES)


def test_the_content_decides_what_is_the_same(tmp_path):
    """Neither the place nor the name of a file: the run goes on where the folder was moved, images in two splits are
    told, a changed file is another data set."""
    for folder in ("one", "two"):
        png(tmp_path / folder / "a" / "1.png", 1)
        png(tmp_path / folder / "b" / "2.png", 2)
    one, two = (read(name, tmp_path) for name in ("one", "two"))
    assert one.content_digest == two.content_digest
    warnings = check_splits(one, {"main": two}, None, kind="single", labels=LabelSet(("a", "b")), roles=ROLES)
    assert any("2 rows of validation (100.0 %) are also in train" in warning for warning in warnings)
    png(tmp_path / "two" / "b" / "2.png", 3)
    assert read("two", tmp_path).content_digest != one.content_digest


def test_a_file_that_changes_after_it_was_read(tmp_path):
    image = image_of(str(png(tmp_path / "a.png", 1)), None)
    png(tmp_path / "a.png", 2)
    with pytest.raises(ValueError, match="changed"):
        content_of_image(image)

"""Images as rows have them: a path or the file's bytes, and a hash of the content. No pixel is looked at here.

::

    folder/<class>/**/*.png     one folder of images a class
    table.csv: image, label     paths that start from the table's folder and stay inside it
    table.parquet               bytes, or `{bytes, path}` as `datasets` writes them
    train-images-idx3-ubyte.gz  idx files (MNIST and its kin), with the labels beside them
    Python                      paths, bytes, arrays (height, width[, channels]) of 0 … 255, images of Pillow
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa

from bigbatch.errors import Problem
from bigbatch.files.contents import content_of
from bigbatch.files.plain import is_missing
from bigbatch.files.problems import one_error
from bigbatch.files.raw import Column, Raw, from_table
from bigbatch.stored import read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
KIND = pa.struct([
    ("path", pa.large_string()), ("bytes", pa.large_binary()), ("sha256", pa.large_string())
])  # fmt: skip
"""Type of a column of images: where the file lies, or the file itself; and the hash of what it holds."""
MOST_BYTES = 2**26
"""Of one image file: 64 MiB."""
_IDX = "-ubyte"
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"P5", b"P6", b"II*", b"MM")


def image_column(
    column: Column, key: str, where: Callable[[int], str], folder: Path | None
) -> tuple[pa.ChunkedArray, list[Problem]]:
    """Images in one form, missing ones as null, and what cannot be one.

    Args:
        column: paths, bytes, or whatever else a row may have.
        key: the column's own name.
        where: row -> place, for messages.
        folder: that paths start from, and must not leave; None: paths of the caller's own process.
    """
    values = column if isinstance(column, list) else column.to_pylist()
    found: list[ImageFile | None] = []
    problems: list[Problem] = []
    for row, value in enumerate(values):
        try:
            found.append(image_of(value, folder))
        except (ValueError, OSError) as error:
            found.append(None)
            problems.append(Problem(where=where(row), key=key, what=_said(error)))
    return pa.chunked_array([pa.array(found, KIND)]), problems


class ImageFile(TypedDict):
    """One image: `KIND` in Python."""

    path: str | None
    bytes: bytes | None
    sha256: str


def image_of(value: object, folder: Path | None) -> ImageFile | None:
    """One image; None when missing.

    Raises:
        ValueError: it is none, its path leaves the folder, or the file is no plain one.
        OSError: it cannot be read.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, (str, Path)):
        place = _inside(Path(value), folder)
        content = read_bytes(place, most_bytes=MOST_BYTES)
        return {"path": str(place), "bytes": None, "sha256": hashlib.sha256(content).hexdigest()}
    content = _bytes_of(value)
    if content is None:
        return None
    return {"path": None, "bytes": content, "sha256": hashlib.sha256(content).hexdigest()}


def content_of_image(image: ImageFile) -> bytes:
    """The file's bytes, the same as when the row was read.

    Raises:
        ValueError: it has changed meanwhile.
        OSError: it is gone.
    """
    if image["bytes"] is not None:
        return image["bytes"]
    content = read_bytes(Path(image["path"] or ""), most_bytes=MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != image["sha256"]:
        raise ValueError("has changed since the rows were read; start anew")
    return content


def _said(error: Exception) -> str:
    return f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)


def _inside(path: Path, folder: Path | None) -> Path:
    """Where a file really lies.

    Raises:
        ValueError: outside the folder, or nowhere.
    """
    try:
        place = (folder or Path()).joinpath(path).resolve()
    except (OSError, RuntimeError) as error:  # a circle of links
        raise ValueError(f"{path}: {error}") from None
    if folder is not None and folder.resolve() not in place.parents:
        raise ValueError(
            f"{path} lies outside {folder}, where paths start from; expected a file inside it, and no link that leads "
            "out of it"
        )
    if not place.exists():
        raise ValueError(f"no such file: {place}")
    return place


def _bytes_of(value: object) -> bytes | None:
    """An encoded image: bytes as they are, an image of Pillow as PNG, an array in the plainest format there is.

    Raises:
        ValueError: none of these.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value) or None
    save = getattr(value, "save", None)
    if save is not None and hasattr(value, "mode"):
        stream = io.BytesIO()
        save(stream, "PNG")
        return stream.getvalue()
    if hasattr(value, "tolist") or isinstance(value, (list, tuple)):
        return encoded(_pixels(value))
    if is_missing(value):
        return None
    raise ValueError(f"expected an image's path, bytes or pixels, found {type(value).__name__}")


def _pixels(value: object) -> np.ndarray:
    """(H, W) or (H, W, C) uint8.

    Raises:
        ValueError: numbers of another kind or shape.
    """
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.empty(0, object)
    shape = f"an array of {found.dtype} of shape {found.shape}"
    if found.ndim not in (2, 3) or found.dtype.kind not in "iu" or not found.size:
        raise ValueError(f"found {shape}; expected whole numbers of shape (height, width[, channels])")
    if found.min() < 0 or found.max() > 255:
        raise ValueError(f"found pixels from {found.min()} to {found.max()}; expected 0 to 255")
    if found.ndim == 3 and found.shape[-1] not in (1, 3):
        raise ValueError(f"found {shape}; expected 1 or 3 channels, the last of the dimensions")
    return found.astype(np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    """Pixels (H, W[, C]) uint8, one channel or three, as a PGM or PPM file."""
    height, width = pixels.shape[:2]
    kind = b"P6" if pixels.ndim == 3 and pixels.shape[2] == 3 else b"P5"
    return b"%s %d %d 255\n" % (kind, width, height) + np.ascontiguousarray(pixels).tobytes()


def holds_images(values: Sequence[object]) -> bool:
    """Whether a column's values look like images: paths of such files, or their bytes."""
    given = [value for value in values if value is not None]
    return bool(given) and all(map(_looks_like_image, given))


def _looks_like_image(value: object) -> bool:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return value.lower().endswith(SUFFIXES)
    return isinstance(value, bytes) and value.startswith(_BEGINNINGS)


# ---------------------------------------------------------------- folders and files


def images_in(folder: Path) -> list[tuple[str | None, Path]]:
    """(class, file) of `folder/<class>/**/*.png`, or of `folder/*.png` without classes, in the order of their names."""
    found: list[tuple[str | None, Path]] = [
        (kind.name, file)
        for kind in sorted(folder.iterdir())
        if kind.is_dir() and not kind.name.startswith(".")
        for file in _images(kind.rglob("*"))
    ]
    return found or [(None, file) for file in _images(folder.iterdir())]


def _images(files: Iterator[Path]) -> list[Path]:
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.name[:1] != ".")


def image_folder(name: str, folder: Path, files: list[tuple[str | None, Path]]) -> Raw:
    """The images of a folder: `image`, `label` where there are classes, and `id`, the path in it.

    Args:
        name: for messages.
        folder: that they lie in.
        files: (class, file) of `images_in`.
    """
    places = pa.array([file.relative_to(folder).as_posix() for _, file in files], pa.large_string())
    columns = {"image": places}
    if files[0][0] is not None:
        columns["label"] = pa.array([kind for kind, _ in files], pa.large_string())
    return from_table(name, pa.table({**columns, "id": places}), nameless=True, folder=folder)


def one_image(name: str, path: Path) -> Raw:
    """A file that is an image, to predict."""
    return from_table(name, pa.table({"image": [path.name]}), nameless=True, folder=path.parent)


def is_idx(path: Path) -> bool:
    """Whether a file is named as the idx files of MNIST are."""
    return path.name.removesuffix(".gz").endswith(_IDX)


def read_idx(name: str, path: Path) -> Raw:
    """Images of an idx file, with the labels of the file that is named like it.

    Raises:
        DataError: another kind of idx, another size than it says, or other labels.
    """
    pixels = _array(name, path)
    if pixels.ndim != 3 and pixels.shape[3:] != (3,):
        what = f"found an idx file of shape {pixels.shape}; expected images, such as (60000, 28, 28)"
        raise one_error(name, "", what)
    images = pa.array([encoded(each) for each in pixels], pa.large_binary())
    columns: dict[str, pa.Array] = {"image": images}
    beside = path.with_name(
        path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1")
    )
    if beside != path and beside.exists():
        labels = _array(beside.name, beside)
        if labels.shape != pixels.shape[:1]:
            what = f"found labels of shape {labels.shape} for {len(pixels):,} images; expected one each"
            raise one_error(beside.name, "", what)
        columns["label"] = pa.array(labels.astype(np.int64))
    return from_table(name, pa.table(columns), nameless=True)


def _array(name: str, path: Path) -> np.ndarray:
    """What an idx file holds: uint8 of any shape."""
    try:
        content = content_of(path)
        zero, kind, dimensions = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
        if zero or kind != 8:
            raise ValueError("no idx file of bytes (magic number 0x08…)")
        found = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        if len(found) != int(np.prod(shape, dtype=np.int64)):
            raise ValueError(f"holds {len(found):,} bytes, but says that its shape is {shape}")
    except (OSError, ValueError, struct.error, pa.ArrowException) as error:  # also Damaged
        raise one_error(name, "", f"cannot be read: {error}") from error
    return found.reshape(shape)

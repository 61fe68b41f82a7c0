"""Files of COCO: `{"images": […], "annotations": […], "categories": […]}`, a row for each image.

Columns: `id` (the image's), `image` (a path), `boxes`, `classes` (names). Masks are not read: of them the boxes are
what is learnt, whether they are polygons or runs. Rows are numbered from 1 in the order of `images`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from bigbatch.errors import Problem
from bigbatch.files.boxes import boxes_of
from bigbatch.files.contents import content_of
from bigbatch.files.problems import data_error, listed
from bigbatch.files.raw import Raw, from_dicts
from bigbatch.protocols import Row
from bigbatch.stored import Damaged

IMAGES, ANNOTATIONS, CATEGORIES = "images", "annotations", "categories"
_NAME = "file_name"
Id = int | str
Wrong = Callable[[str, str], None]
"""Told the place of an entry and what is wrong with it."""


def holds_coco(rows: Sequence[Row]) -> bool:
    """Whether what a file holds is one object as COCO has it: images, with or without what is on them."""
    if len(rows) != 1:
        return False
    images = rows[0].get(IMAGES)
    named = isinstance(images, list) and all(isinstance(one, Mapping) and _NAME in one for one in images[:5])
    return named and (
        isinstance(rows[0].get(ANNOTATIONS), list) or CATEGORIES in rows[0] or "info" in rows[0]
    )


def read_coco(name: str, found: Row) -> Raw:
    """The images of a file of which `holds_coco` is true, a row each.

    Args:
        name: of the file, for messages.
        found: its object. Without `annotations` (files to predict) rows have no boxes.

    Raises:
        DataError: every entry that has another form, or names what is not there, with its place in the file.
    """
    problems: list[Problem] = []

    def wrong(place: str, what: str) -> None:
        problems.append(Problem(where=f"{name}: {place}", what=what))

    categories = _categories(found.get(CATEGORIES), wrong)
    images = _images(found[IMAGES], wrong)
    if found.get(ANNOTATIONS) is None:
        rows = [{"id": image, "image": path} for image, (path, _) in images.items()]
    else:
        boxes = _annotations(found[ANNOTATIONS], images, categories, wrong)
        rows = [
            {
                "id": image,
                "image": path,
                "boxes": [box for box, _ in boxes[image]],
                "classes": [kind for _, kind in boxes[image]],
            }
            for image, (path, _) in images.items()
        ]
    if problems:
        raise data_error(problems)
    return from_dicts(name, rows, class_orders={"classes": tuple(categories.values())}, nameless=True)


def images_folder(raw: Raw, path: Path) -> Path:
    """Where the paths of a file's images start from: its own folder; or, as COCO is unpacked, that of its images
    beside or above it: `annotations/instances_train2017.json`, `train2017/*.jpg`.

    Args:
        raw: of `read_coco`.
        path: of the file.
    """
    beside = path.parent
    split = path.stem.rpartition("_")[2]
    above = [beside.parent, beside.parent / "images"] if beside.name == ANNOTATIONS else []
    places = [
        place / inside for place in (beside, *above) for inside in ("", IMAGES, split) if place.is_dir()
    ]
    first = next((row for row in raw.load(["image"])["image"] if isinstance(row, str)), None)
    if first is None or Path(first).is_absolute() or ".." in Path(first).parts:
        return beside
    return next((place for place in places if (place / first).is_file()), beside)


def category_ids(path: Path) -> dict[str, Id]:
    """Name -> id of the categories of a file; empty where it is none of COCO, or has none."""
    try:
        found = json.loads(content_of(path))
    except (Damaged, OSError, ValueError, RecursionError):
        return {}
    entries = found.get(CATEGORIES) if isinstance(found, dict) else None
    return {name: number for number, name in _categories(entries, lambda _place, _what: None).items()}


def _categories(entries: object, wrong: Wrong) -> dict[Id, str]:
    """Id -> name, by id."""
    found: dict[Id, str] = {}
    if not isinstance(entries, list):
        if entries is not None:
            wrong(CATEGORIES, f"expected a list, found {type(entries).__name__}")
        return found
    for number, entry in enumerate(entries):
        place = f"{CATEGORIES}[{number}]"
        if not isinstance(entry, Mapping) or not _is_id(entry.get("id")) or not _is_text(entry.get("name")):
            wrong(place, f"expected an object with an id and a name, found {entry!r:.60}")
        elif entry["id"] in found:
            wrong(place, f"id {entry['id']} is that of {found[entry['id']]!r}, too")
        elif entry["name"] in found.values():
            wrong(place, f"two categories are called {entry['name']!r}; give each a name of its own")
        else:
            found[entry["id"]] = entry["name"]
    return dict(sorted(found.items(), key=lambda one: (str(type(one[0])), one[0])))


def _images(entries: Sequence[object], wrong: Wrong) -> dict[Id, tuple[str, list[float] | None]]:
    """Id -> path, and width and height where the file says so."""
    found: dict[Id, tuple[str, list[float] | None]] = {}
    for number, entry in enumerate(entries):
        place = f"{IMAGES}[{number}]"
        if not isinstance(entry, Mapping) or not _is_id(entry.get("id")) or not _is_text(entry.get(_NAME)):
            wrong(place, f"expected an object with an id and a {_NAME}, found {entry!r:.60}")
        elif entry["id"] in found:
            wrong(place, f"id {entry['id']} occurs twice; each image has an id of its own")
        else:
            wide, high = entry.get("width"), entry.get("height")
            size = [float(wide), float(high)] if _is_number(wide) and _is_number(high) else None
            found[entry["id"]] = (entry[_NAME], size)
    return found


def _annotations(
    entries: object,
    images: Mapping[Id, tuple[str, list[float] | None]],
    categories: Mapping[Id, str],
    wrong: Wrong,
) -> dict[Id, list[tuple[Row, str]]]:
    """Image -> its boxes, each with the name of its class, in the order of the file."""
    found: dict[Id, list[tuple[Row, str]]] = {image: [] for image in images}
    if not isinstance(entries, list):
        wrong(ANNOTATIONS, f"expected a list, found {type(entries).__name__}")
        return found
    ids: Counter[Id] = Counter(
        entry["id"] for entry in entries if isinstance(entry, Mapping) and _is_id(entry.get("id"))
    )
    for number, entry in enumerate(entries):
        place = f"{ANNOTATIONS}[{number}]"
        what = _fault(entry, images, categories, ids)
        if what is not None:
            wrong(place, what)
            continue
        about = {key: entry[key] for key in ("bbox", "area", "iscrowd") if key in entry}
        about["frame"] = images[entry["image_id"]][1]
        if "id" in entry:
            about["id"] = f"annotation {entry['id']}"
        try:
            boxes_of([about])
        except ValueError as error:
            wrong(place, str(error).replace("box 1", "the box", 1))
            continue
        found[entry["image_id"]].append((about, categories[entry["category_id"]]))
    return found


def _fault(
    entry: object, images: Collection[Id], categories: Mapping[Id, str], ids: Mapping[Id, int]
) -> str | None:
    """What is wrong with an annotation's references."""
    if not isinstance(entry, Mapping):
        return f"expected an object, found {type(entry).__name__}"
    lacking = [key for key in ("image_id", "category_id", "bbox") if key not in entry]
    if lacking:
        return f"has no {listed(lacking)}"
    image, category, own = entry["image_id"], entry["category_id"], entry.get("id")
    if not _is_id(image) or image not in images:
        return f"image_id {image!r:.40}: there is no such image"
    if not _is_id(category) or category not in categories:
        known = listed([f"{number} ({name})" for number, name in categories.items()])
        return f"category_id {category!r:.40}: there is no such category; there are: {known}"
    if _is_id(own) and ids[own] > 1:
        return f"id {own!r} occurs {ids[own]} times; each annotation has an id of its own"
    return None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_id(value: object) -> TypeGuard[Id]:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())

"""What CONTRIBUTING.md and docs/house.md name exists: files, definitions, lines of the sources, floors in their order."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "bigbatch"
PAGES = ("CONTRIBUTING.md", "docs/house.md")


def files_named(page: str) -> list[tuple[str, str]]:
    """(file, name in it or "") of each `file.py` and `file.py:name` of a page."""
    found = re.findall(r"`([\w/.-]+\.py)(?::(\w+))?`", (ROOT / page).read_text(encoding="utf-8"))
    return [(file, name) for file, name in found if file != "file.py"]


@pytest.mark.parametrize("page", PAGES)
def test_files_and_what_stands_in_them_exist(page: str) -> None:
    named = files_named(page)
    assert len(named) > 10
    missing = [f"{file}:{name}" for file, name in named if not defines(place_of(file), name)]
    assert missing == []


def place_of(file: str) -> Path:
    """Of a file as the pages name it: below the package, else below the root."""
    return next((path for path in (PACKAGE / file, ROOT / file) if path.is_file()), PACKAGE / file)


def defines(path: Path, name: str) -> bool:
    """Whether the file exists and, of a name, defines it at its top."""
    if not path.is_file():
        return False
    pattern = rf"^(?:(?:def|class) {name}\b|{name}\b *(?:=|:))" if name else ""
    return re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_a_name_that_is_gone_is_noticed() -> None:
    assert defines(PACKAGE / "tasks" / "catalog.py", "TASKS")
    assert not defines(PACKAGE / "tasks" / "catalog.py", "TASK")
    assert not defines(PACKAGE / "tasks" / "gone.py", "")


def test_lines_shown_as_added_stand_in_the_sources() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = 0
    for block in re.findall(r"```diff\n(.*?)```", page, re.DOTALL):
        lines: list[str] = []
        for line in block.splitlines():
            if line.startswith("--- "):
                lines = (ROOT / line.removeprefix("--- ")).read_text(encoding="utf-8").splitlines()
            else:
                assert line.removeprefix("+") in lines, line
                shown += 1
    assert shown >= 10


def test_the_house_is_drawn_floor_by_floor() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    drawn = page.partition("```\nfloor")[2].partition("```")[0].splitlines()[1:]
    expected = [re.findall(r"\w+", layer) for layer in layers]
    found = [line.split()[: len(floor)] for line, floor in zip(drawn, expected, strict=True)]
    assert found == expected

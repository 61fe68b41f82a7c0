"""The contract's page says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import bigbatch
from bigbatch import errors
from bigbatch.recipe.tasks import PLANNED_TASKS, TASKS
from bigbatch.store.identity import _ABOUT, _HOW
from bigbatch.store.lock import HEARTBEAT_SECONDS, STALE_SECONDS
from bigbatch.tasks.catalog import build_task

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")


def rows(title: str) -> list[list[str]]:
    """The cells of the tables under a title."""
    part = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_task_has_its_roles(tmp_path):
    shown = {task: cell for first, cell in rows("Recipe")[1:] for task in names(first)}
    assert set(shown) == set(TASKS)
    for task, cell in shown.items():
        roles = build_task(task, {}, tmp_path).roles
        assert names(cell) == list(roles)
        needed, _, optional = cell.partition("optional")
        for role in names(optional.partition(",")[0]):
            assert not roles[role].required
    for task in PLANNED_TASKS:
        assert f"`{task}`" in PAGE


def test_exit_codes_are_those_of_the_errors():
    table = {code: names(found) for code, _, found in rows("Exit codes")[1:]}
    by_code: dict[str, list[str]] = {}
    for name, found in vars(errors).items():
        if isinstance(found, type) and issubclass(found, errors.BigbatchError) and name[0] != "_":
            by_code.setdefault(str(found.exit_code), []).append(name)
    for code, classes in by_code.items():
        assert sorted(table[code]) == sorted(classes), code
    assert f"{errors.EXIT_INTERRUPTED}, {errors.EXIT_TERMINATED}" in table


def test_names_of_the_package_and_numbers():
    part = PAGE.partition("## Python\n")[2].partition("are the package's names")[0]
    assert set(names(part)) == set(bigbatch.__all__)
    assert f"heartbeat {HEARTBEAT_SECONDS:g} s, stale after {STALE_SECONDS:g} s" in PAGE
    what = PAGE.partition("**What and how**")[2].partition("\n- **")[0]
    assert set(names(what)) == (_HOW | _ABOUT) - {"source", "extends"}

"""Whose fault an unexpected error is, in the last line that a user sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bigbatch.cli.outcome import guarded
from bigbatch.units import parse_quantity

OWN = """
import json

def loss(text):
    return json.loads(text)

def passed_on(work):
    return work()
"""


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    names: dict[str, Any] = {}
    exec(compile(OWN, str(file), "exec"), names)
    return names | {"file": file}


def told(command: Any) -> str:
    said: list[str] = []
    assert guarded(command, said.append) == 1
    return said[0].splitlines()[-1]


def test_a_library_called_by_the_users_code(own: dict[str, Any]) -> None:
    assert told(lambda: own["loss"]("{")) == (
        f"The error was raised by code of yours: {own['file']}, line 5, in loss."
    )


def test_our_code_called_by_the_users_code(own: dict[str, Any]) -> None:
    """What calls us with anything that is no text finds our bug."""
    assert told(lambda: own["passed_on"](lambda: parse_quantity(object()))).startswith(  # type: ignore[arg-type]
        "This is a bug in bigbatch."
    )

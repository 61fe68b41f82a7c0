"""How often Python's collector runs while a run is opened."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigbatch
from bigbatch.garbage import OBJECTS, looked_for_seldom


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_outside_it_is_as_it_was_after_a_failure_too() -> None:
    gc.set_threshold(700, 11, 12)

    @looked_for_seldom()
    def fails() -> None:
        assert gc.get_threshold() == (OBJECTS, 11, 12)
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            fails()
        assert gc.get_threshold() == (700, 11, 12)


@pytest.mark.parametrize("asked", [(0, 10, 10), (3 * OBJECTS, 5, 5)])
def test_who_asked_for_less_gets_no_more(asked: tuple[int, int, int]) -> None:
    gc.set_threshold(*asked)
    with looked_for_seldom():
        assert gc.get_threshold() == asked


def test_a_run_is_opened_so_and_its_updates_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def opened(*_: object, **__: object) -> None:
        seen.append(gc.get_threshold())
        raise KeyboardInterrupt

    monkeypatch.setattr("bigbatch.run.start.open_run", opened)
    gc.set_threshold(700, 10, 10)
    rows = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
    with pytest.raises(KeyboardInterrupt):
        bigbatch.start(
            {"model": "m", "task": "classify", "batch": 2, "epochs": 1}, rows, run_dir=tmp_path / "r"
        )
    assert seen == [(OBJECTS, 10, 10)]
    assert gc.get_threshold() == (700, 10, 10)

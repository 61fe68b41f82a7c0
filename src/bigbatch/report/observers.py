"""The observers that a recipe names, made harmless: what one raises becomes an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bigbatch.errors import Problem, RecipeError
from bigbatch.protocols import Observer
from bigbatch.recipe.references import is_reference, resolve_reference
from bigbatch.records import Evaluate, Event, Record, Request, Save, Stop

_PATIENCE = 3
"""Failures in a row after which an observer is no longer called: it would only fill the journal."""


def load_observers(
    specs: Sequence[str | Observer], base: Path, on_event: Callable[[Event], None]
) -> list[Observer]:
    """The observers of a recipe, or of a Python call, ready to be called with every record.

    Args:
        specs: import references (`"alerts.py:notify"`) or callables. A class is called once, without
            arguments, for observers that remember things.
        base: the folder that file references are relative to.
        on_event: is given an `Event` when an observer raises or answers with something that is no request.

    Raises:
        RecipeError: an observer that cannot be found or called, all of them at once.
    """
    observers: list[Observer] = []
    problems: list[Problem] = []
    for number, spec in enumerate(specs):
        key = f"observers[{number}]"
        try:
            name = spec if isinstance(spec, str) else getattr(spec, "__qualname__", type(spec).__name__)
            observers.append(HarmlessObserver(name, _resolve(spec, base, key), on_event))
        except RecipeError as error:
            problems.extend(error.problems or [Problem(where="recipe", key=key, what=str(error))])
    if problems:
        raise RecipeError(problems)
    return observers


def _resolve(spec: Any, base: Path, key: str) -> Any:
    found = spec
    if isinstance(spec, str):
        if not is_reference(spec):
            what = f"found {spec!r}; expected an import reference such as alerts.py:notify"
            raise RecipeError([Problem(where="recipe", key=key, what=what)])
        found = resolve_reference(spec, base)
    if isinstance(found, type):
        found = found()
    if not callable(found):
        what = f"{spec!r} is a {type(found).__name__}; expected a function of one record"
        raise RecipeError([Problem(where="recipe", key=key, what=what)])
    return found


class HarmlessObserver:
    """Calls an observer and keeps its failures away from the run."""

    def __init__(self, name: str, observer: Observer, on_event: Callable[[Event], None]) -> None:
        self.name = name
        self._observer = observer
        self._on_event = on_event
        self._failures_in_a_row = 0

    def __call__(self, record: Record) -> Request | None:
        """The observer's request, or None when it had none, failed, or is no longer called."""
        if self._failures_in_a_row >= _PATIENCE:
            return None
        try:
            answer = self._observer(record)
        except (Exception, SystemExit) as error:  # an observer's sys.exit() is a failure of the observer too
            self._failed(record, f"{self.name} raised {type(error).__name__}: {error}")
            return None
        if answer is not None and not isinstance(answer, (Stop, Save, Evaluate)):
            found = type(answer).__name__
            self._failed(record, f"{self.name} answered with {found}; expected Stop, Save, Evaluate or None")
            return None
        self._failures_in_a_row = 0
        return answer

    def _failed(self, record: Record, why: str) -> None:
        self._failures_in_a_row += 1
        # Its own failure's event comes back to the observer; answering that with another would never end.
        if isinstance(record, Event) and record.event == "observer_failed":
            return
        last = self._failures_in_a_row >= _PATIENCE
        did = "it is not called any more" if last else "its answer was ignored and the run went on"
        self._on_event(Event(step=record.step, event="observer_failed", why=why, did=did))

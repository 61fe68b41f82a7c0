"""A mistake of the caller's is one sentence at the caller's own line: the frames of this project are left out of it.

A bug (`BigbatchError` itself, or any other exception) keeps them all, and so does everything where
`BIGBATCH_TRACEBACK=1` is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from bigbatch.errors import BigbatchError

TRACEBACK_VARIABLE = "BIGBATCH_TRACEBACK"
"""Shows where in this project a mistake was found; no key of a recipe."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def said_plainly(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that people call, such that what it refuses is shown without its inside."""

    @wraps(function)
    def called(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except BigbatchError as error:
            _leave_out_frames(error)
            raise  # without a name, Python adds no line for this frame either

    return called


def each_said_plainly(records: Generator[Any, None, None]) -> Generator[Any, None, None]:
    """As `said_plainly`, for what people iterate over."""
    try:
        yield from records
    except BigbatchError as error:
        _leave_out_frames(error)
        raise


def _leave_out_frames(error: BigbatchError) -> None:
    if type(error) is BigbatchError or os.environ.get(TRACEBACK_VARIABLE):
        return
    error.__traceback__ = error.__cause__ = None
    error.__suppress_context__ = True

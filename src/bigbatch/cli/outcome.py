"""From what happened to an exit code, and to what is said on the way out."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from bigbatch.cli.words import say
from bigbatch.errors import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    BigbatchError,
    PeerFailed,
    UsageError,
    without_credentials,
)
from bigbatch.launch.worker import Worker

_SIGTERM = 15
# typer brings its own copy of click from 0.25 on; its public BadParameter leads to the base class in either.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


def exit_code_of_run(run: Any) -> int:
    """0 for a finished run, 130 or 143 for an interrupted one, by the signal that did it."""
    if getattr(run, "status", "finished") != "interrupted":
        return EXIT_DONE
    return EXIT_TERMINATED if getattr(run, "signal", None) == _SIGTERM else EXIT_INTERRUPTED


def as_worker(command: Callable[[], object], worker: Worker) -> int:
    """As `guarded` for one worker of a group: whoever started it says what went wrong, once."""
    worker.begin()
    said: list[str] = []
    code = guarded(command, said.append)
    consequence = bool(said) and said[0].startswith(_CONSEQUENCE)
    return worker.end(code, "\n".join(said).removeprefix(_CONSEQUENCE), consequence=consequence)


_CONSEQUENCE = "\0"
"""Marks words of a rank that only could not go on without another."""


def _to_the_user(text: str) -> None:
    say(text.removeprefix(_CONSEQUENCE), sys.stderr)


def guarded(command: Callable[[], object], tell: Callable[[str], None] = _to_the_user) -> int:
    """Call the command line application and turn every outcome into an exit code.

    Args:
        command: the application.
        tell: given the words for the user when it failed.
    """
    try:
        result = command()
    except typer.Exit as error:
        return error.exit_code
    except _CommandLineError as error:
        return _wrong_words(error, tell)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # `bigbatch predict … | head`: the reader has enough. click turns the closed pipe into SystemExit.
        if not isinstance(error.__context__ or error, BrokenPipeError):
            return _bug(tell)
        # What is still buffered goes nowhere, so that Python does not complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_DONE
    except BigbatchError as error:
        if error.exit_code == EXIT_BUG:
            return _bug(tell)
        tell((_CONSEQUENCE if isinstance(error, PeerFailed) else "") + str(error))
        return error.exit_code
    except Exception:
        return _bug(tell)
    return result if isinstance(result, int) else EXIT_DONE


def _wrong_words(error: Any, tell: Callable[[str], None]) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bigbatch"
    tell(f"Error: {error.format_message()}\nTry '{command} --help'.")
    return UsageError.exit_code


def _bug(tell: Callable[[str], None]) -> int:
    own = _own_code(sys.exc_info()[2])
    verdict = (
        f"The error was raised by code of yours: {own}."
        if own
        else f"This is a bug in bigbatch. Please report the lines above, with the recipe{_where()}."
    )
    tell(f"{without_credentials(traceback.format_exc())}\n{verdict}")
    return EXIT_BUG


def _own_code(trace: Any) -> str:
    """File, line and function of the user's code that raised, or called a library that did; empty if it was ours."""
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    ours = Path(__file__).resolve().parents[1]
    for frame in reversed(traceback.extract_tb(trace)):
        file = Path(frame.filename).resolve()
        if file.is_relative_to(ours):
            return ""
        if file.is_file() and not any(file.is_relative_to(library) for library in libraries):
            return f"{frame.filename}, line {frame.lineno}, in {frame.name}"
    return ""


def _where() -> str:
    try:
        urls = metadata.metadata("bigbatch").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        urls = []
    for entry in urls:
        name, _, url = entry.partition(", ")
        if name.lower() in ("issues", "bug tracker", "tracker"):
            return f", at {url}"
    return ", to its developers"

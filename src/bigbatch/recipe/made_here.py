"""Whether the code that a run directory names was put there by this user, on a machine of theirs, and by nobody else.

A run directory is data, but its recipe may name code: `task: tasks.py:Mine`. Training leaves a mark in it: a keyed hash
of the recipe and of the copies in `code/`, with a key that only this user's home has. A directory that was downloaded,
or changed since, has no such mark.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from bigbatch.private import make_private, why_not_private, why_shared
from bigbatch.recipe.references import is_reference
from bigbatch.recipe.schema import Recipe
from bigbatch.stored import open_plain, read_bytes

MARK = "code.hmac"
_KEY = (".local", "share", "bigbatch", "key")
_KEY_BYTES = 32
_MARK_BYTES = 1000


def code_named(recipe: Recipe) -> list[str]:
    """References that evaluation of a run resolves: its task, its metrics."""
    return [name for name in (recipe.task.name, *recipe.metrics) if is_reference(name)]


def mark(run: Path) -> str | None:
    """What to write into `MARK`; None without a home that can be written: then reading asks."""
    key = _key(make=True)
    return None if key is None else _digest(run, key)


def why_to_ask(run: Path) -> str | None:
    """Why code of a run directory should not run unasked; None where it was made here by this user."""
    for path in _parts(run):
        if why := why_shared(path):
            return why
    key = _key(make=False)
    try:
        known = read_bytes(run / MARK, most_bytes=_MARK_BYTES).decode("ascii") if key is not None else ""
    except (OSError, ValueError):  # damaged files too
        known = ""
    if key is None or not hmac.compare_digest(known, _digest(run, key)):
        return "it was not made here by you, or its recipe or code were changed since"
    return None


def _parts(run: Path) -> Iterator[Path]:
    """The directory, its recipe and its code; what is not there is not looked at."""
    yield from (path for path in (run.resolve(), run / "recipe.yaml") if path.exists())
    code = run / "code"
    if code.exists():
        yield code
        yield from sorted(path for path in code.rglob("*") if "__pycache__" not in path.parts)


def _digest(run: Path, key: bytes) -> str:
    whole = hmac.new(key, digestmod=hashlib.sha256)
    for path in _parts(run):
        if path.is_file():
            with open_plain(path) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{path.relative_to(run)}\0{content}\n".encode())
    return whole.hexdigest()


def _key(*, make: bool) -> bytes | None:
    """The key in the user's home; made at first, in a folder that is nobody else's.

    One that others could have exchanged is none.
    """
    try:
        place = Path.home().joinpath(*_KEY)
        if make:
            make_private(place.parent)
            with contextlib.suppress(FileExistsError):
                handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
        if why_not_private(place.parent) or why_shared(place):
            return None
        key = read_bytes(place, most_bytes=_KEY_BYTES)
    except (OSError, RuntimeError, ValueError):  # no home, or one that cannot be written; no plain file
        return None
    return key if len(key) == _KEY_BYTES else None

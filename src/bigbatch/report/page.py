"""Templates filled in, and files written in one step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

import bigbatch
from bigbatch.errors import DiskError
from bigbatch.written import as_named, replace_text


def render(template: str, view: Mapping[str, Any]) -> str:
    """Fill one of the room's templates; whatever is not Markup is escaped."""
    loader = jinja2.PackageLoader("bigbatch.report")
    setting = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return setting.get_template(template).render(version=bigbatch.__version__, **view)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of one.

    Raises:
        DiskError: it cannot be written, or a folder lies in its place.
    """
    try:
        replace_text(as_named(path), text)
    except OSError as error:
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}; move away what is there, or make room"
        ) from error

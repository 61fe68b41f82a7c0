"""Where this process has bigbatch from, for processes that tests start: of a copy with a planted fault, that copy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def source_folder() -> str:
    """The folder on the path that holds the package, found and not imported."""
    found = find_spec("bigbatch")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parents[1])

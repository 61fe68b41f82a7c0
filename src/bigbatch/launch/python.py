"""Where Python looks for modules: where they are installed, and on PYTHONPATH; never in the folder the user is in."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress


def python_words(module: str, *words: str, python: str = sys.executable) -> list[str]:
    """The command of a module of ours."""
    return [python, "-P", "-m", module, *words]


def look_only_where_installed(environ: MutableMapping[str, str]) -> None:
    """For this program and whatever it starts: compilers, agents, programs of the user's observers.

    An empty entry of PYTHONPATH, as in `$PYTHONPATH:/my/modules` where it was not set, is the folder that the user is
    in; nobody means that.
    """
    environ["PYTHONSAFEPATH"] = "1"
    named = environ.get("PYTHONPATH", "").split(os.pathsep)
    if named == [""] or "" not in named:
        return
    named = [entry for entry in named if entry]
    environ["PYTHONPATH"] = os.pathsep.join(named)
    with suppress(OSError):
        here = os.getcwd()
        if here not in map(os.path.abspath, named):
            sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]

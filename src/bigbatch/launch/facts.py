"""What must be equal on every machine before processes start there, and how the others reach this one.

    python -m bigbatch.launch.facts      reads a request, prints the facts as JSON; asked for over SSH

The request is a line of JSON: recipe, changes, peer, seen. No torch is loaded: it answers in a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from bigbatch import __version__
from bigbatch.errors import BigbatchError
from bigbatch.launch.address import LOOPBACK, address_towards, interface_of
from bigbatch.launch.local import accelerators, cores
from bigbatch.launch.passed import resolved_keys
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.references import referenced_files

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe


class Request(TypedDict):
    """What is asked of a machine."""

    recipe: str | None
    """As typed."""
    changes: list[str]
    peer: str | None
    """A machine that must be reached from there."""
    seen: str
    """A file that must be visible."""


class Facts(TypedDict):
    """What a machine says of itself."""

    same: dict[str, str]
    """Item -> value that must be equal everywhere."""
    keys: dict[str, str]
    """Of the recipe as it is resolved there."""
    address: str
    """Towards the peer."""
    interface: str | None
    accelerators: int
    cores: int
    sees: bool
    """Whether the file is there."""


def facts(request: Request, environ: Mapping[str, str]) -> Facts:
    """Facts of this machine.

    Args:
        request: of whoever starts the run.
        environ: of this process.

    Raises:
        BigbatchError: the recipe cannot be read here.
    """
    peer, recipe = request["peer"], request["recipe"]
    address = address_towards(peer, environ) if peer else LOOPBACK
    loaded = None if recipe is None else load_recipe(recipe, request["changes"], environ=environ)
    return {
        "same": {**versions(), **({} if loaded is None else of_recipe(loaded))},
        "keys": {} if loaded is None else resolved_keys(loaded),
        "address": address,
        "interface": interface_of(address),
        "accelerators": accelerators(environ),
        "cores": cores(),
        "sees": Path(request["seen"]).exists(),
    }


def versions() -> dict[str, str]:
    """Of everything that computes."""
    found = {"bigbatch": __version__, "code of bigbatch": code_digest(), "python": platform.python_version()}
    for name in ("torch", "transformers", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def code_digest() -> str:
    """Of this package's files."""
    root = Path(__file__).resolve().parents[1]
    return _digest(sorted(root.rglob("*.py")), root)


def of_recipe(loaded: Recipe) -> dict[str, str]:
    """Size and sha256 of each file that the recipe, or any of its stages, names; its keys are compared one by one
    (`passed`).
    """
    found: dict[str, str] = {}
    for each in [stage.recipe for stage in loaded.stages] or [loaded]:
        for name, path in data_files(each):
            found[name] = (
                _file(path) if path.is_file() else _folder(path) if path.is_dir() else "no such file"
            )
        for path in referenced_files(each):
            found[path.name] = _file(path)
    return found


def data_files(recipe: Recipe) -> list[tuple[str, Path]]:
    """(as written, where it is) of data and model."""
    validation = recipe.data.validation
    sources = [recipe.data.train, recipe.data.test]
    sources += list(validation.values()) if isinstance(validation, Mapping) else [validation]
    written = [name for source in sources for name in _names(source)]
    found = [(name, recipe.base / Path(name).expanduser()) for name in written]
    for name in (recipe.model.name, recipe.model.tokenizer):
        if name and recipe.resolve_path(name).is_dir():
            found.append((name, recipe.resolve_path(name)))
    return list(dict(found).items())


def _names(source: object) -> list[str]:
    if source is None or isinstance(source, (int, float)):
        return []
    entries = source if isinstance(source, (list, tuple)) else [source]
    return [str(getattr(entry, "path", entry)) for entry in entries]


def _file(path: Path) -> str:
    with path.open("rb") as stream:
        return f"{path.stat().st_size} bytes, sha256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}"


def _folder(path: Path) -> str:
    return f"folder, sha256 {_digest(sorted(each for each in path.rglob('*') if each.is_file()), path)}"


def _digest(paths: Sequence[Path], root: Path) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path.relative_to(root)}\0{_file(path)}\n".encode())
    return whole.hexdigest()[:12]


def main() -> int:
    """Print facts, or what stands in the way."""
    try:
        print(json.dumps(facts(json.loads(sys.stdin.readline()), os.environ)))
    except BigbatchError as error:
        print(json.dumps({"failed": str(error), "exit_code": error.exit_code}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

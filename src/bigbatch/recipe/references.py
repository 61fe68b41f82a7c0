"""Import references: `package.module:name`, or `file.py:name` relative to the recipe.

Only what a recipe names is ever imported. `referenced_files` says which files that will be before any of them runs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from bigbatch.errors import Problem, RecipeError
from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.values import is_reference
from bigbatch.stored import Damaged, read_bytes

__all__ = ["is_reference", "named_files", "read_code", "referenced_files", "references", "resolve_reference"]

_MOST_BYTES = 2**24
"""Of a file of code."""


def references(recipe: Recipe) -> dict[str, str]:
    """Every import reference of a recipe: dotted key -> reference."""
    named = {
        "task": recipe.task.name,
        "loss": recipe.loss.name,
        "optimizer": recipe.optimizer.name,
        "schedule": recipe.schedule.name,
    }
    named |= {f"metrics[{index}]": name for index, name in enumerate(recipe.metrics)}
    named |= {f"observers[{index}]": name for index, name in enumerate(recipe.observers)}
    return {key: name for key, name in named.items() if is_reference(name)}


def referenced_files(recipe: Recipe) -> list[Path]:
    """The files that the recipe's references will run, each once; nothing is imported.

    Raises:
        RecipeError: with all files and modules that do not exist.
    """
    found: dict[Path, None] = {}
    problems: list[Problem] = []
    where = str(recipe.source) if recipe.source else "recipe"
    for key, reference in references(recipe).items():
        module, _, _ = reference.rpartition(":")
        path = recipe.resolve_path(module) if module.endswith(".py") else _module_file(module)
        if path is None:
            what = _no_module(module, recipe.base)
        elif not (what := _unreadable(path)):
            found[path.resolve()] = None
            continue
        problems.append(Problem(where=where, key=key, what=f"{reference}: {what}"))
    if problems:
        raise RecipeError(problems)
    return list(found)


_WITH_TEMPLATE = ("chat", "prefer", "reward")


def named_files(recipe: Recipe) -> list[Path]:
    """Files that options of the task name, which are read and never run: a chat template."""
    template = recipe.task.args.get("template") if recipe.task.name in _WITH_TEMPLATE else None
    path = recipe.resolve_path(str(template or ""))
    return [path] if template not in (None, "chatml") and path.is_file() else []


def resolve_reference(text: str, base: Path) -> Any:
    """Import what a reference names.

    Args:
        text: `package.module:name`, or `file.py:name` relative to `base`.
        base: the recipe's folder.

    Raises:
        RecipeError: no such file, module or name, or the code fails when it is run.
    """
    place, _, name = text.rpartition(":")
    if not is_reference(text):
        raise _refused(text, "expected package.module:name or file.py:name")
    module = (
        _load_file(base / Path(place).expanduser(), text)
        if place.endswith(".py")
        else _load_module(place, text, base)
    )
    if not hasattr(module, name):
        near = get_close_matches(name, [other for other in vars(module) if not other.startswith("_")], n=1)
        raise _refused(text, f"{place} has no {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return getattr(module, name)


class _AsWritten(SourceFileLoader):
    """Reads the file itself: what lies in a __pycache__ beside it need not be what it says."""

    def path_stats(self, path: object) -> object:
        """Without a time there is no bytecode to look for, or to write."""
        raise OSError


def _load_file(path: Path, text: str) -> ModuleType:
    what = _unreadable(path)
    if what:
        raise _refused(text, what)
    content = read_code(path)
    # The same content is loaded once: two references into one file must see the same classes.
    key = hashlib.sha256(str(path.resolve()).encode() + b"\0" + content).hexdigest()[:16]
    name = f"bigbatch_user_{key}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_AsWritten(name, str(path)))
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it runs
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end with sys.exit()
        del sys.modules[name]
        raise _refused(text, _failure(error, path) + _beside(error, path)) from error
    return module


def _load_module(name: str, text: str, base: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _refused(text, _no_module(name, base)) from error
        raise _refused(text, _failure(error, None)) from error
    except (Exception, SystemExit) as error:
        raise _refused(text, _failure(error, None)) from error


def _module_file(name: str) -> Path | None:
    """Where an installed module lives, found without importing its parents."""
    search: Sequence[str] | None = None
    spec = None
    for end in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(".".join(name.split(".")[:end]), search)
        if spec is None:
            return None
        search = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.origin else None


def _failure(error: BaseException, path: Path | None) -> str:
    """`losses.py:3: NameError: name 'x' is not defined`: the last line of the user's own file, not ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path is None or frame.filename == str(path)]
    line = own[-1].lineno if own else getattr(error, "lineno", None)
    file = path.name if path is not None else (Path(own[-1].filename).name if own else "")
    place = f"{file}:{line}: " if line else f"{file}: " if file else ""
    return f"{place}{type(error).__name__}: {error}"


def _beside(error: BaseException, path: Path) -> str:
    """What to do about an import of a neighbour."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not name or not (path.parent / f"{name}.py").is_file():
        return ""
    return f"; {name}.py beside it is not looked for: put its folder on PYTHONPATH, or both into one file"


def _no_module(name: str, base: Path) -> str:
    """The folder that the user is in and that of the recipe are no places for modules: there a file is named."""
    file = f"{name.replace('.', '/')}.py"
    near = "it is" if (base / file).is_file() else "if it is"
    return f"no module {name} is installed or on PYTHONPATH; {near} a file beside the recipe: {file}:NAME"


def read_code(path: Path) -> bytes:
    """The content of a file of the user's code.

    Raises:
        RecipeError: it is no plain file, or far too large for code.
        OSError: not there, or not for us.
    """
    try:
        return read_bytes(path, most_bytes=_MOST_BYTES)
    except Damaged as error:
        raise _refused(str(path), str(error)) from None


def _unreadable(path: Path) -> str:
    """Why a file of code cannot be used; empty if it can."""
    try:
        read_bytes(path, most_bytes=_MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return _no_file(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except Damaged as error:
        return f"{path} {error}"
    return ""


def _no_file(path: Path) -> str:
    near = get_close_matches(path.name, [other.name for other in path.parent.glob("*.py")], n=1)
    return f"no such file: {path}" + (f"; did you mean {near[0]}?" if near else "")


def _refused(reference: str, what: str) -> RecipeError:
    return RecipeError([Problem(where=reference, what=what)])

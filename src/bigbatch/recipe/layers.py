"""The layers of a recipe: site < extended files < file < environment < command line, and how they merge."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigbatch.errors import Problem, RecipeError
from bigbatch.frames import TRACEBACK_VARIABLE
from bigbatch.private import why_shared
from bigbatch.recipe.machine import SlurmSpec
from bigbatch.recipe.sugar import ALTERNATIVES, desugar
from bigbatch.recipe.values import is_reference, kind_of, nearest
from bigbatch.recipe.yaml12 import MAX_CHARACTERS, MAX_DEPTH, Document, read_value, read_yaml
from bigbatch.stored import Damaged, check_plain, read_bytes

Key = tuple[str | int, ...]

ENVIRONMENT_PREFIX = "BIGBATCH_"
SITE_VARIABLE = "BIGBATCH_SITE"
WORKER_VARIABLE = "BIGBATCH_WORKER"
"""Names the launch folder to the workers of a group; no key of a recipe."""
HOST_VARIABLE = "BIGBATCH_HOST"
"""Tells a worker how the user calls its machine; no key of a recipe."""
CHANGES_VARIABLE = "BIGBATCH_CHANGES"
"""Brings the `key=value` words of a launcher to its workers; no key of a recipe."""
MEETING_VARIABLE = "BIGBATCH_MEETING"
"""Tells a worker where in the launch folder the ranks of its start find each other; no key of a recipe."""
_NO_KEYS = (
    SITE_VARIABLE, WORKER_VARIABLE, HOST_VARIABLE, CHANGES_VARIABLE, MEETING_VARIABLE, TRACEBACK_VARIABLE,
)  # fmt: skip
STAGES = "stages"
SITE_KEYS = ("plan", "launch", "observers", "run")
_WHOLE = {("data", "validation")}
"""Mappings that a higher layer replaces as a whole: their keys are the user's own names."""


@dataclass
class Layer:
    """Values in their long form, and where each was written."""

    where: str
    """What to say when nothing closer is known: a file, a variable, `command line`."""
    values: dict[str, object] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    """Path of a value -> `file:line`, variable or `command line`."""
    written: dict[Key, Key] = field(default_factory=dict)
    """Path of a value -> the path the user wrote, where a short form moved it."""
    problems: list[Problem] = field(default_factory=list)
    stages: list[Layer] | None = None
    """Of `stages: […]`: one layer an entry; None: this layer has no list."""
    changes: dict[str, Layer] = field(default_factory=dict)
    """Of `stages.0.epochs=1`: number or name of a stage -> what it changes there."""

    def place(self, path: Key) -> str:
        """Where the value at `path`, or the closest mapping around it, was written."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.where

    def key(self, path: Key) -> str:
        """The dotted key as the user wrote it: `batch` for `batch: -3`, although the value is batch.samples."""
        return dotted(self.written.get(path, path))


def dotted(path: Key) -> str:
    """`data.train[0].path`."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.startswith("<"):
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def file_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """The layer of a recipe file, behind those of the files it extends."""
    layer = Layer(str(path))
    text = _read(path, layer)
    if text is None:
        return [layer]
    document = read_yaml(text)
    _take_document(layer, document, str(path))
    parent = layer.values.pop("extends", None)
    if parent is None:
        return [layer]
    where = layer.place(("extends",))
    if not isinstance(parent, str):
        layer.problems.append(
            Problem(where=where, key="extends", what=f"found {kind_of(parent)}; expected a file name")
        )
        return [layer]
    target = path.parent / parent
    if target.resolve() in (*seen, path.resolve()):
        layer.problems.append(Problem(where=where, key="extends", what=f"{parent} extends this file again"))
        return [layer]
    if not target.exists():
        layer.problems.append(Problem(where=where, key="extends", what=f"no such file: {target}"))
        return [layer]
    below = file_layers(target, (*seen, path.resolve()))
    for other in [inner for layer in below for inner in (layer, *(layer.stages or ()))]:
        other.values = _moved_paths(other.values, target.parent, path.parent)
    return [*below, layer]


def site_layer(environ: Mapping[str, str], site: Path | None) -> Layer | None:
    """The site file: given, named by $BIGBATCH_SITE, or `~/.config/bigbatch/site.yaml` where it exists."""
    if site is None and SITE_VARIABLE in environ:
        site = Path(environ[SITE_VARIABLE])
    if site is None:
        home = environ.get("XDG_CONFIG_HOME") or (
            environ.get("HOME") and os.path.join(environ["HOME"], ".config")
        )
        site = Path(home, "bigbatch", "site.yaml") if home else None
        if site is None or not os.path.lexists(site):
            return None
    refuse_shared(site)
    layer = file_layers(site)[-1]
    wanted = "a site file may set plan, launch, observers and run.root only"
    if layer.stages is not None:
        layer.problems.append(Problem(where=layer.place((STAGES,)), key=STAGES, what=wanted))
        layer.stages = None
    for key in list(layer.values):
        inner = layer.values[key]
        if key not in SITE_KEYS:
            layer.problems.append(Problem(where=layer.place((key,)), key=key, what=wanted))
            del layer.values[key]
        elif key == "run" and isinstance(inner, dict):
            for other in [name for name in inner if name != "root"]:
                where = layer.place((key, other))
                layer.problems.append(Problem(where=where, key=f"run.{other}", what=wanted))
            layer.values[key] = {name: value for name, value in inner.items() if name == "root"}
    return layer


def refuse_shared(site: Path) -> None:
    """Its words become lines of a batch script, and name code: it is the user's own, or the administrator's.

    A link to it is followed, as from a home to a folder of settings.

    Raises:
        RecipeError: others may write it, or it belongs to another user.
    """
    try:
        check_plain(site)
        why = why_shared(Path(os.path.realpath(site)), or_root=True)
    except (OSError, ValueError):  # not there, or no file at all: said where it is read
        return
    if why:
        what = (
            f"{why}; expected a site file that only you or the administrator can change "
            "(chmod go-w it, or copy it and name the copy in $BIGBATCH_SITE)"
        )
        raise RecipeError([Problem(where=str(site), what=what)])


def refuse_shell_lines(layer: Layer) -> None:
    """A recipe may come from anywhere: what becomes lines of a batch script is said by whoever submits it."""
    section = _at(layer.values, ("launch",)) or {}
    default = SlurmSpec().model_dump()
    said = section.get("slurm")
    if said is None or (isinstance(said, dict) and all(default.get(key) == said[key] for key in said)):
        return
    where = layer.place(("launch", "slurm"))
    what = (
        "becomes lines of a batch script, so a recipe cannot set it; put it into the site file "
        "(~/.config/bigbatch/site.yaml), or type launch.slurm.partition=gpu"
    )
    layer.problems.append(Problem(where=where, key="launch.slurm", what=what))
    del section["slurm"]


def mapping_layer(values: Mapping[str, object]) -> Layer:
    """A recipe given as a mapping from Python."""
    layer = Layer("recipe")
    plain = {str(key): _plain(value, 1) for key, value in values.items()}
    layer.places = dict.fromkeys(_paths(plain), "recipe")
    _take_values(layer, plain)
    return layer


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """`BIGBATCH_OPTIMIZER__LR=5e-5` as `optimizer.lr`."""
    layer = Layer("environment")
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _NO_KEYS:
            continue
        path = tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
        _assign(layer, path, environ[name], name)
    return _taken(layer)


def override_layer(overrides: Sequence[str] | Mapping[str, object]) -> Layer:
    """`key=value` words, or a mapping of dotted keys to values."""
    layer = Layer("command line")
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _set(layer, tuple(str(key).split(".")), _plain(value), "set")
    else:
        for word in overrides:
            key, equals, value = word.partition("=")
            if not equals or not key.strip():
                what = f"found {word!r}; expected key=value, such as batch.samples=1024"
                layer.problems.append(Problem(where="command line", what=what))
                continue
            _assign(layer, tuple(key.strip().split(".")), value, "command line")
    return _taken(layer)


def merge(layers: Sequence[Layer]) -> Layer:
    """One layer out of many, later ones above earlier ones; their problems are gathered."""
    result = Layer(layers[-1].where if layers else "recipe")
    for layer in layers:
        result.problems += layer.problems
        result.values = _merged(result.values, layer.values, (), result)
        result.places |= layer.places
        result.written |= layer.written
    return result


# ---------------------------------------------------------------- reading one layer


def _read(path: Path, layer: Layer) -> str | None:
    try:
        return read_bytes(path, most_bytes=4 * MAX_CHARACTERS).decode("utf-8-sig")
    except FileNotFoundError:
        near = nearest(path.name, sorted(other.name for other in path.parent.glob("*.y*ml")))
        what = f"no such file{near}" if near else "no such file; `bigbatch init DATA` writes a recipe"
    except Damaged as error:
        what = str(error)
    except UnicodeDecodeError as error:
        what = f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
    layer.problems.append(Problem(where=str(path), what=what))
    return None


def _take_document(layer: Layer, document: Document, name: str) -> None:
    layer.places = {path: f"{name}:{line}" for path, line in document.lines.items() if path}
    layer.problems += [
        Problem(where=f"{name}:{line}", key=dotted(path), what=what) for line, path, what in document.problems
    ]
    if isinstance(document.value, dict):
        _take_values(layer, document.value)
    elif document.value is not None:
        what = f"found {kind_of(document.value)}; expected a mapping such as `model: org/name`"
        layer.problems.append(Problem(where=f"{name}:1", what=what))


def _take_values(layer: Layer, values: dict[str, object]) -> None:
    """Bring the values to their long form, remember how they were written, settle alternatives."""
    if STAGES in values:
        _take_stages(layer, values[STAGES])
        values = {key: value for key, value in values.items() if key != STAGES}
    layer.values, moved = desugar(values)
    written = set(_paths(values))
    for path in _paths(layer.values):
        origin = moved.get(path, path)
        while origin and origin not in written:
            origin = origin[:-1]
        if origin and origin != path:
            layer.written[path] = origin
            layer.places[path] = layer.place(origin)
    for group, keys in ALTERNATIVES.items():
        section = _at(layer.values, group)
        given = [key for key in keys if section is not None and section.get(key) is not None]
        if section is None or len(given) < 2:
            continue
        what = f"found {' and '.join(given)} together; expected one of them"
        layer.problems.append(Problem(where=layer.place((*group, given[1])), key=dotted(group), what=what))
        for key in given[1:]:
            del section[key]


def _taken(layer: Layer) -> Layer:
    """A layer that was assigned key by key, and so were the stages' shares of it."""
    for each in (layer, *layer.changes.values()):
        _take_values(each, each.values)
    return layer


def _take_stages(layer: Layer, found: object) -> None:
    """Each entry of `stages` is a layer of its own, above the rest of this one."""
    where = layer.place((STAGES,))
    if not isinstance(found, list) or not found:
        what = "is an empty list" if found == [] else f"found {kind_of(found)}"
        example = "a list such as [{task: mlm, epochs: 1}, {task: classify}]"
        layer.problems.append(Problem(where=where, key=STAGES, what=f"{what}; expected {example}"))
        return
    layer.stages = []
    for index, entry in enumerate(found):
        here = (STAGES, index)
        stage = Layer(layer.places.get(here, where))
        layer.stages.append(stage)
        stage.places = {
            path[2:]: place for path, place in layer.places.items() if path[:2] == here and path[2:]
        }
        if isinstance(entry, dict):
            _take_values(stage, entry)
            continue
        what = f"found {kind_of(entry)}; expected a mapping such as {{task: mlm}}"
        stage.problems.append(Problem(where=stage.where, what=what))


def _assign(layer: Layer, path: tuple[str, ...], text: str, where: str) -> None:
    try:
        value = read_value(text)
    except ValueError as error:
        layer.problems.append(Problem(where=where[:100], key=".".join(path)[:200], what=str(error)))
        return
    _set(layer, path, value, where)


def _set(layer: Layer, path: tuple[str, ...], value: object, where: str) -> None:
    if len(path) > MAX_DEPTH:
        what = f"found a key of {len(path):,} parts; expected at most {MAX_DEPTH}"
        layer.problems.append(Problem(where=where, key=".".join(path[:3]) + "…", what=what))
        return
    if not all(path):
        layer.problems.append(Problem(where=where, key=".".join(path), what="found an empty name in the key"))
        return
    if (deeper := path[2:]) and path[0] == STAGES:
        _set(layer.changes.setdefault(path[1], Layer(where)), deeper, value, where)
        return
    section = layer.values
    for part in path[:-1]:
        inner = section.get(part)
        if not isinstance(inner, dict):
            # `optimizer=adamw optimizer.lr=1` means both: the short form makes room for its long form.
            short = {part: inner} if section is layer.values else {path[0]: {part: inner}}
            long = desugar(short)[0] if inner is not None else {}
            inner = _at(long, (part,) if section is layer.values else (path[0], part)) or {}
            section[part] = inner
        section = inner
    section[path[-1]] = value
    for end in range(1, len(path) + 1):
        layer.places[path[:end]] = where
    for inner_path in _paths(value):
        layer.places[(*path, *inner_path)] = where


# ---------------------------------------------------------------- trees


def _merged(low: dict[str, object], high: dict[str, object], path: Key, result: Layer) -> dict[str, object]:
    out = dict(low)
    if path == ("task",) and "name" in high and high["name"] != low.get("name", "classify"):
        out = {}
    if "name" in high and high["name"] != low.get("name"):
        out.pop("args", None)
    group = ALTERNATIVES.get(path, ())  # type: ignore[call-overload]
    if any(high.get(key) is not None for key in group):
        out = {key: value for key, value in out.items() if key not in group}
    for key, value in high.items():
        below = out.get(key)
        inner = (*path, key)
        if isinstance(below, dict) and isinstance(value, dict) and inner not in _WHOLE:
            out[key] = _merged(below, value, inner, result)
            continue
        if key in low:  # else nothing was written there, and looking for it in all places would take its time
            for known in [place for place in result.places if place[: len(inner)] == inner]:
                del result.places[known]
                result.written.pop(known, None)
        out[key] = value
    return out


def _at(values: object, path: Key) -> dict[str, object] | None:
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else None


def _paths(value: object, prefix: Key = ()) -> list[Key]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in items:
        found.append((*prefix, key))
        found += _paths(inner, (*prefix, key))
    return found


def _plain(value: object, depth: int = 0) -> object:
    """Mappings as dict with text keys, sequences as list, paths as text: what YAML would have given.

    Raises:
        RecipeError: nested deeper than a file may be.
    """
    if depth > MAX_DEPTH:
        raise RecipeError([Problem(where="recipe", what=f"nested deeper than {MAX_DEPTH} levels")])
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _moved_paths(values: dict[str, object], old: Path, new: Path) -> dict[str, object]:
    """Relative files of an extended recipe, rewritten to start from the folder of the recipe that extends it."""
    if old.resolve() == new.resolve():
        return values

    def move(text: object) -> object:
        if not isinstance(text, str) or "://" in text or Path(text).expanduser().is_absolute():
            return text
        return Path(os.path.relpath(old / text, new)).as_posix()

    def walk(value: object, path: Key) -> object:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        is_file = path[0] == "data" and path[-1] == "path"
        is_code = isinstance(value, str) and ".py:" in value and is_reference(value)
        is_folder = path in (("model", "name"), ("model", "tokenizer")) and (old / str(value)).is_dir()
        return move(value) if is_file or is_code or is_folder else value

    return {key: walk(item, (key,)) for key, item in values.items()}

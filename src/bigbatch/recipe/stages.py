"""`stages:`: several trainings in one recipe, each of which starts from the model of the one before.

An entry overrides keys of the top level, layer by layer: what a higher layer says of all stages (`seed=1`) is above
what the file says of one of them, and `stages.1.seed=1` is above both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bigbatch.errors import Problem
from bigbatch.recipe.layers import STAGES, Layer, dotted, merge
from bigbatch.recipe.values import kind_of, show

START_KEYS = ("name", "revision", "tokenizer", "init", "config")
"""Of `model`: which weights training starts from."""
OF_ALL = (("launch",), ("run", "dir"), ("run", "root"), ("plan", "ranks"))
"""What the stages have in common: one folder, one group of processes."""
_NAME = re.compile(r"[A-Za-z][\w-]{0,39}", re.ASCII)


def is_staged(layers: Sequence[Layer]) -> bool:
    """Whether any layer speaks of stages."""
    return any(layer.stages is not None or layer.changes for layer in layers)


def staged(layers: Sequence[Layer]) -> tuple[list[tuple[str, Layer]], list[Problem]]:
    """Name and merged layers of each stage, and what is wrong with the list itself.

    Args:
        layers: of the whole recipe, lower ones first; the highest list of stages counts.
    """
    lists = [layer for layer in layers if layer.stages is not None]
    if not lists:
        what = "this recipe has no stages; expected a list `stages:` in the file"
        found = [(name, change) for layer in layers for name, change in layer.changes.items()]
        return [], [Problem(where=change.where, key=f"{STAGES}.{name}", what=what) for name, change in found]
    entries = lists[-1].stages or []
    problems: list[Problem] = []
    given = [_given_name(index, entry, problems) for index, entry in enumerate(entries)]
    names = [name or _task_of(merge([*layers, entry])) for name, entry in zip(given, entries, strict=True)]
    for index, name in enumerate(given):
        if name is not None and name in given[:index]:
            key = f"{dotted((STAGES, index))}.name"
            problems.append(Problem(where=entries[index].place(("name",)), key=key, what=f"{name} is taken"))
    problems += _strange_changes(layers, names)
    found = []
    for index, entry in enumerate(entries):
        own: list[Layer] = []
        ordered: list[Layer] = []
        for layer in layers:
            known = {str(index)} | ({names[index]} if names.count(names[index]) == 1 else set())
            mine = [change for name, change in layer.changes.items() if name in known]
            mine = [*([entry] if layer is lists[-1] else []), *mine]
            own += mine
            ordered += [layer, *mine]
        for layer in own:
            _refuse(index, layer)
        merged = merge(ordered)
        merged.where = entry.where
        if index:
            _start_as(merged, found[0][1])
        found.append((given[index] or _task_of(merged), merged))
    return found, problems


def of_stage(index: int, problem: Problem) -> Problem:
    """A problem of one stage, by its key as it stands in the file: `stages[1].task`."""
    inner = problem.key if problem.key.startswith("[") or not problem.key else f".{problem.key}"
    return replace(problem, key=f"{dotted((STAGES, index))}{inner}")


def _given_name(index: int, entry: Layer, problems: list[Problem]) -> str | None:
    """The name that an entry gives itself; None: that of its task."""
    given = entry.values.pop("name", None)
    if given is None:
        return None
    where, key = entry.place(("name",)), f"{dotted((STAGES, index))}.name"
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        what = (
            f"found {show(given)} ({kind_of(given)}); expected letters, digits, _ and -, such as `pretrain`"
        )
        problems.append(Problem(where=where, key=key, what=what))
        return None
    return given


def _task_of(merged: Layer) -> str:
    """The name of its task, as a folder can have it."""
    task = merged.values.get("task")
    name = task.get("name") if isinstance(task, dict) else None
    last = re.sub(r"[^A-Za-z0-9_-]+", "-", str(name or "classify").rpartition(":")[2])[:40].strip("-")
    return last if _NAME.fullmatch(last) else "task"


def _strange_changes(layers: Sequence[Layer], names: Sequence[str]) -> Iterator[Problem]:
    """`stages.7.epochs=1` and the like."""
    known = {str(index) for index in range(len(names))} | {name for name in names if names.count(name) == 1}
    for name, change in ((name, change) for layer in layers for name, change in layer.changes.items()):
        if name not in known:
            there = ", ".join(f"{index} ({each})" for index, each in enumerate(names))
            yield Problem(
                where=change.where, key=f"{STAGES}.{name}", what=f"no such stage; there are {there}"
            )


def _refuse(index: int, layer: Layer) -> None:
    """Take out what only the whole recipe can say, and say so."""
    refused = [(path, "holds for all stages: write it at the top level") for path in OF_ALL]
    refused.append((("extends",), "write it at the top level"))
    if index:
        what = "a stage starts from the model of the one before: only the first says which model that is"
        refused += [(("model", key), what) for key in START_KEYS]
    for path, what in refused:
        section = layer.values
        for part in path[:-1]:
            inner = section.get(part)
            section = inner if isinstance(inner, dict) else {}
        if path[-1] in section:
            del section[path[-1]]
            key = layer.key(path) if path in layer.written else ".".join(path)
            layer.problems.append(Problem(where=layer.place(path), key=key, what=what))
    if layer.stages is not None or layer.changes:
        layer.problems.append(
            Problem(where=layer.place((STAGES,)), key=STAGES, what="stages have no stages of their own")
        )


def _start_as(merged: Layer, first: Layer) -> None:
    """The model of a later stage, until the stage before has left one: that of the first."""
    model, start = merged.values.get("model", {}), first.values.get("model", {})
    if isinstance(model, dict) and isinstance(start, dict):
        own = {key: value for key, value in model.items() if key not in START_KEYS}
        merged.values["model"] = {**{key: start[key] for key in START_KEYS if key in start}, **own}

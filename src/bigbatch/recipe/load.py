"""Reading and writing recipes: all layers, all problems at once, every default spelled out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bigbatch.errors import Problem, RecipeError
from bigbatch.recipe.layers import (
    ENVIRONMENT_PREFIX,
    STAGES,
    Layer,
    environment_layer,
    file_layers,
    mapping_layer,
    merge,
    override_layer,
    refuse_shell_lines,
    site_layer,
)
from bigbatch.recipe.messages import problems_of
from bigbatch.recipe.schema import Recipe, Stage
from bigbatch.recipe.stages import OF_ALL, START_KEYS, is_staged, of_stage, staged
from bigbatch.recipe.sugar import ALTERNATIVES
from bigbatch.recipe.tasks import MAKES_ITS_MODEL
from bigbatch.recipe.yaml12 import dump_yaml
from bigbatch.remote.addresses import shown

_REQUIRED = {
    "model": ("name", "is missing; expected a hub name or a folder, such as `model: bert-base-uncased`"),
    "data": ("train", "is missing; expected file(s), such as `train: reviews.csv`"),
}


def load_recipe(
    path_or_mapping: str | os.PathLike[str] | Mapping[str, object],
    overrides: Sequence[str] | Mapping[str, object] = (),
    *,
    environ: Mapping[str, str] | None = None,
    site: Path | None = None,
) -> Recipe:
    """Read a recipe: defaults < site < `extends` < file < environment < overrides.

    Args:
        path_or_mapping: a YAML file, or a mapping (which may leave out model and data: Python brings them).
        overrides: `key=value` words, or a mapping of dotted keys to values.
        environ: where `BIGBATCH_*` and the site file's place are read from, as the command line passes it; None reads
            neither (for the resolved recipe of a run, say).
        site: the site file; None finds it through `environ`.

    Raises:
        RecipeError: with all problems of all layers, each with its place.
    """
    environ = environ or {}
    from_file = not isinstance(path_or_mapping, Mapping)
    source = Path(path_or_mapping) if from_file else None
    files = file_layers(source) if source is not None else [mapping_layer(path_or_mapping)]  # type: ignore[arg-type]
    for layer in files if from_file else ():
        refuse_shell_lines(layer)
    site_file = site_layer(environ, site)
    ordered = [
        *([site_file] if site_file else []),
        *files,
        environment_layer(environ),
        override_layer(overrides),
    ]
    merged = merge(ordered)
    merged.where = files[-1].where
    readable = not files[-1].problems or bool(files[-1].values)
    absolute = source.absolute() if source is not None else None
    if is_staged(ordered):
        return _staged(merged, ordered, absolute, required=from_file)
    return _validate(merged, required=from_file, readable=readable).from_source(absolute)


def _staged(whole: Layer, ordered: Sequence[Layer], source: Path | None, *, required: bool) -> Recipe:
    """A recipe with stages: that of the last one, which carries them all.

    Args:
        whole: all layers without what stages say.
        ordered: each of them.
        source: the file.
        required: whether model and data must be named.
    """
    stages, problems = staged(ordered)
    shared = {*whole.problems, *_problems_of(whole)} if stages else {*whole.problems}
    problems += whole.problems
    found = []
    for index, (name, merged) in enumerate(stages):
        try:
            recipe = _validate(merged, required=required, readable=True).from_source(source)
            found.append(Stage(number=index + 1, name=name, recipe=recipe))
        except RecipeError as error:
            problems += [each if each in shared else of_stage(index, each) for each in error.problems]
    if problems:
        raise RecipeError(sorted(dict.fromkeys(problems), key=_order))
    return found[-1].recipe.with_stages(found)


def _problems_of(layer: Layer) -> Sequence[Problem]:
    try:
        _validate(layer, required=False, readable=True)
    except RecipeError as error:
        return error.problems
    return ()


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default spelled out; `load_recipe` reads it back to an equal recipe.

    Without `launch.slurm`, which is the site's and which no recipe may set, and without secrets of addresses.
    """
    values = recipe_values(recipe)
    del values["launch"]["slurm"]
    for each in values.get(STAGES, [values]):
        each["data"] = _shown(each["data"])
    return dump_yaml(values)


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _shown(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    return shown(value) if isinstance(value, str) else value


def _staged_values(recipe: Recipe) -> dict[str, object]:
    """What all stages share, and each of them in full."""
    values = recipe_values(recipe.stages[0].recipe)
    run, plan = values["run"], values["plan"]
    whole = {"run": {key: run[key] for key in ("dir", "root")}, "plan": {"ranks": plan["ranks"]}}
    entries: list[dict[str, object]] = []
    for stage in recipe.stages:
        entry = recipe_values(stage.recipe)
        for path in OF_ALL:
            section = entry
            for part in path[:-1]:
                section = section[part]
            del section[path[-1]]
        if entries:
            entry["model"] = {key: value for key, value in entry["model"].items() if key not in START_KEYS}
        entries.append({"name": stage.name, **entry})
    return {**whole, "launch": values["launch"], STAGES: entries}


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a mapping that `load_recipe` takes, every default spelled out."""
    if recipe.stages:
        return _staged_values(recipe)
    values = recipe.model_dump(by_alias=True)
    for group, keys in ALTERNATIVES.items():
        section = values
        for part in group:
            section = section[part]
        for key in keys:
            if section[key] is None:
                del section[key]
    return _lists(values)


def _validate(merged: Layer, *, required: bool, readable: bool) -> Recipe:
    problems = list(merged.problems)
    if required and readable:
        problems += _missing(merged)
    recipe = None
    try:
        recipe = Recipe.model_validate(merged.values)
    except ValidationError as error:
        problems += problems_of(error, merged)
    if problems or recipe is None:
        raise RecipeError(sorted(dict.fromkeys(problems), key=_order))
    recipe._place = merged.place
    return recipe


@contextmanager
def placed(recipe: Recipe) -> Iterator[None]:
    """Give problems that later rooms find with the recipe the file and line of their key."""
    try:
        yield
    except RecipeError as error:
        general = {"recipe", recipe.source.name if recipe.source is not None else "recipe"}
        if not any(problem.where in general for problem in error.problems):
            raise
        raise RecipeError(
            [
                replace(problem, where=recipe.place(problem.key)) if problem.where in general else problem
                for problem in error.problems
            ]
        ) from error


def _missing(merged: Layer) -> list[Problem]:
    """A file must name a model and data; `name: null` and `train: []` say that Python brings them."""
    found = []
    for section, (key, what) in _REQUIRED.items():
        inner = merged.values.get(section, {})
        made = section == "model" and isinstance(inner, dict) and inner.get("init") == "random"
        made |= section == "model" and _named(merged.values.get("task")) in MAKES_ITS_MODEL
        if isinstance(inner, dict) and key not in inner and not made:
            found.append(
                Problem(
                    where=merged.place((section,)),
                    key=section if section == "model" else "data.train",
                    what=what,
                )
            )
    return found


def _named(task: object) -> object:
    return task.get("name") if isinstance(task, dict) else task


def _order(problem: Problem) -> tuple[int, str, int]:
    """Files first, each by line; then the environment, then the command line."""
    name, colon, line = problem.where.rpartition(":")
    if colon and line.isdigit():
        return 0, name, int(line)
    rank = 2 if problem.where == "command line" else 1 if problem.where.startswith(ENVIRONMENT_PREFIX) else 0
    return rank, problem.where, 0


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value

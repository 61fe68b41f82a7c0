"""All keys of the recipe, walked out of the schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import get_args

from pydantic.fields import FieldInfo

from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.tasks import TASK_OPTIONS
from bigbatch.recipe.values import Section

_BESIDE = {"task": tuple(TASK_OPTIONS.values())}
"""The options of a task stand directly under `task`, not under `task.args`."""


def section_of(annotation: object) -> type[Section] | None:
    """The section inside an annotation such as `MeshSpec | None` or `list[DataFile]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in get_args(annotation):
        found = section_of(part)
        if found is not None:
            return found
    return None


def name_of(name: str, info: FieldInfo) -> str:
    """The key in YAML: `from` where Python says `start`."""
    return info.alias or name


def walk(
    section: type[Section] = Recipe, prefix: str = ""
) -> Iterator[tuple[str, type[Section], str, FieldInfo]]:
    """Every key, outer ones first: dotted key, the section that declares it, its Python name, its declaration."""
    for name, info in section.model_fields.items():
        key = prefix + name_of(name, info)
        yield key, section, name, info
        inner = section_of(info.annotation)
        if inner is not None:
            yield from walk(inner, f"{key}.")
    beside = _BESIDE.get(prefix[:-1], ())
    seen: set[str] = set()
    for options in () if section in beside else beside:
        # Tasks may have an option in common; it is one key.
        yield from (found for found in walk(options, prefix) if found[0] not in seen)
        seen |= {f"{prefix}{name}" for name in options.model_fields}


@cache
def all_keys() -> Mapping[str, FieldInfo]:
    """Dotted key -> declaration."""
    return {key: info for key, _, _, info in walk()}


def siblings(path: str) -> tuple[str, ...]:
    """The keys that stand in the mapping at `path` (empty: the top)."""
    prefix = f"{path}." if path else ""
    return tuple(
        key[len(prefix) :] for key in all_keys() if key.startswith(prefix) and "." not in key[len(prefix) :]
    )

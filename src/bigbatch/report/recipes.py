"""recipe.yaml -> flat `dotted.key: text` pairs, and the keys in which runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from bigbatch.recipe.yaml12 import MAX_DEPTH


def flat_recipe(text: str) -> dict[str, str]:
    """Every scalar of a recipe under its dotted key, as it is written; empty when it is not YAML.

    A report has to show recipes of any version, so this reads text and knows no schema. Aliases are refused
    as in recipes themselves: a few lines of them can stand for gigabytes.
    """
    try:
        if not _is_plain(text):
            return {}
        document = yaml.load(text, Loader=yaml.BaseLoader)  # builds str, list and dict only
    except (yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(document, Mapping):
        return {}
    flat: dict[str, str] = {}
    _flatten(document, "", flat)
    return flat


def _is_plain(text: str) -> bool:
    """Without aliases, and no deeper than a recipe may be: the parser's time grows with depth times length."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            return False
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH + 1:
            return False
    return True


def _flatten(node: object, key: str, into: dict[str, str]) -> None:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            _flatten(value, f"{key}.{name}" if key else str(name), into)
    elif isinstance(node, list) and any(isinstance(item, (Mapping, list)) for item in node):
        for number, value in enumerate(node):
            _flatten(value, f"{key}.{number}", into)
    elif isinstance(node, list):
        into[key] = ", ".join(map(str, node))
    elif key:
        into[key] = "" if isinstance(node, Mapping) else str(node)


def differing_keys(recipes: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys whose values are not the same in all recipes, in the order in which they first appear."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    return [key for key in keys if len({recipe.get(key) for recipe in recipes}) > 1]

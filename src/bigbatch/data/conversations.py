"""A source whose conversations are one column, whichever form they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bigbatch.files.raw import Column, Raw
from bigbatch.protocols import Role
from bigbatch.turns import FORMS, KIND, PARTS, gathered, parts_of, without_nulls


def with_conversations(
    raw: Raw, wanted: Mapping[str, str], roles: Mapping[str, Role]
) -> tuple[Raw, Mapping[str, str]]:
    """A source with a column for the role that is a conversation, and what is wanted of it; as it is where a task reads
    none, or it has none.

    Args:
        raw: a source with columns in any of the forms.
        wanted: role or part -> column.
        roles: what the task reads.
    """
    role = next((name for name, about in roles.items() if about.kind == KIND), None)
    parts = {} if role is None else parts_of(raw.columns, wanted)
    if role is None or not parts or any(name not in raw.columns for name in parts.values()):
        return raw, wanted
    others = tuple(name for name in raw.columns if name != role)
    needed = [parts[part] for form in FORMS for part in form if part in parts]

    def load(names: Sequence[str]) -> Mapping[str, Column]:
        found = dict(raw.load([name for name in names if name != role]))
        if role in names:
            loaded = raw.load(list(dict.fromkeys(parts.values())))
            found[role] = gathered({part: _values(loaded[name]) for part, name in parts.items()})
        return found

    def lacks(name: str) -> Sequence[int]:
        return raw.lacks(needed[0] if name == role else name)

    rest = {name: column for name, column in wanted.items() if name not in PARTS}
    return replace(raw, columns=(*others, role), load=load, lacks=lacks), {**rest, role: role}


def _values(column: Column) -> Sequence[object]:
    return column if isinstance(column, list) else [without_nulls(value) for value in column.to_pylist()]

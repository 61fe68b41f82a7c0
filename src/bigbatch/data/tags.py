"""Sentences of words with a tag each: what is wrong with a row, and tags that do not follow IOB2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bigbatch.data.tables import DataTable
from bigbatch.protocols import Role

OUTSIDE = "O"
_PREFIXED = re.compile(r"[BIES]-.+")


def has_scheme(names: Iterable[str]) -> bool:
    """Whether tags mark entities: each is `O`, or a type behind `B-` or `I-` (`E-` and `S-` too), and some are.

    >>> has_scheme(["O", "B-PER", "I-PER"]), has_scheme(["NOUN", "VERB"])
    (True, False)
    """
    marking = [name for name in names if name != OUTSIDE]
    return bool(marking) and all(_PREFIXED.fullmatch(name) for name in marking)


def word_roles(roles: Mapping[str, Role]) -> tuple[str, str] | None:
    """The roles with the words and with their tags, of a task that reads both."""
    by_kind = {role.kind: name for name, role in roles.items()}
    return (by_kind["words"], by_kind["tags"]) if {"words", "tags"} <= set(by_kind) else None


def unequal_rows(table: DataTable, roles: Mapping[str, Role]) -> Iterator[tuple[int, str, str]]:
    """(row, role, what) of rows whose words and tags are not equally many."""
    pair = word_roles(roles)
    if pair is None or table.tokenised or not set(pair) <= set(table.rows.column_names):
        return
    words, tags = (table.rows.column(name).to_pylist() for name in pair)
    for row, (some, others) in enumerate(zip(words, tags, strict=True)):
        if some and others is not None and len(some) != len(others):
            yield row, pair[1], f"{len(some):,} words, but {len(others):,} tags"


def iob_warnings(table: DataTable, roles: Mapping[str, Role]) -> list[str]:
    """Entities that start with `I-`, counted: IOB2 starts each with `B-`."""
    pair = word_roles(roles)
    if pair is None or table.tokenised:
        return []
    sentences = table.rows.column(pair[1]).to_pylist()
    if not has_scheme({tag for tags in sentences for tag in tags or ()}):
        return []
    found = [(row, tag) for row, tags in enumerate(sentences) for tag in _unopened(tags or ())]
    if not found:
        return []
    row, tag = found[0]
    return [
        f"{len(found):,} entities start with I- instead of B-, the first at {table.where(row)} ({tag}): this is not "
        "IOB2; they count as entities all the same, as seqeval's default has it"
    ]


def _unopened(tags: Sequence[str]) -> Iterator[str]:
    """Tags inside an entity (`I-`, `E-`) that none of the same type opens."""
    before = OUTSIDE
    for tag in tags:
        inside = tag[:1] in "IE" and tag != OUTSIDE
        if inside and (before[:1] not in "BI" or before[2:] != tag[2:]):
            yield tag
        before = tag

"""Sentences of words with a tag each: what is wrong with a row, and tags that do not follow IOB2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bigbatch.data.tables import DataTable
from bigbatch.files.class_names import NOT_COUNTED
from bigbatch.files.problems import listed
from bigbatch.protocols import Role, RoleKind

OUTSIDE = "O"
MEANINGS = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I"}
"""What a tag's prefix says, as BIOES has it: IOB1, IOB2 and IO have B and I; BILOU calls the last word L and one alone
U; BMES calls the words between M."""
SCHEMES = ("iob1", "iob2", "bioes", "bilou", "io")
"""Those of entities. All but `io` are read by the same rules; `io` takes a tag without prefix for a type."""
_PREFIXED = re.compile(r"[BIESLUM]-.+")


def has_scheme(names: Iterable[str]) -> bool:
    """Whether tags mark entities: each is `O`, or a type behind a prefix such as `B-` or `I-`, and some are.

    >>> has_scheme(["O", "B-PER", "I-PER"]), has_scheme(["O", "U-PER", "L-PER"]), has_scheme(["NOUN", "VERB"])
    (True, True, False)
    """
    marking = [name for name in names if name != OUTSIDE]
    return bool(marking) and all(_PREFIXED.fullmatch(name) for name in marking)


def parts_of(tag: str) -> tuple[str, str]:
    """(O, B, I, E or S, entity type) of a tag; one without prefix is inside an entity of its own name.

    >>> parts_of("B-PER"), parts_of("U-PER"), parts_of("PER"), parts_of("O")
    (('B', 'PER'), ('S', 'PER'), ('I', 'PER'), ('O', ''))
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    return (MEANINGS[tag[0]], tag[2:]) if _PREFIXED.fullmatch(tag) else ("I", tag)


def unmarked_warning(names: Sequence[str]) -> str | None:
    """Said where `scheme: auto` scores words one by one though the tags seem to mark entities."""
    others = [name for name in names if name != OUTSIDE and not _PREFIXED.fullmatch(name)]
    if not others or (len(others) == len(names) and OUTSIDE not in names):
        return None
    prefixed = len(others) < len(names) - (OUTSIDE in names)
    beside = "others that have" if prefixed else OUTSIDE
    return (
        f"tags without B- or I- beside {beside} ({listed(others, 5)}): every word is scored by itself; if they "
        "mark entities, set task.scheme: io (each run of words of one tag is an entity), or name them B-… and I-…; "
        "task.scheme: none says that they stand for themselves"
    )


def word_roles(roles: Mapping[str, Role], kind: RoleKind = "tags") -> tuple[str, str] | None:
    """The roles with the words and with what there is one of a word, of a task that reads both."""
    by_kind = {role.kind: name for name, role in roles.items()}
    return (by_kind["words"], by_kind[kind]) if {"words", kind} <= set(by_kind) else None


def unequal_rows(table: DataTable, roles: Mapping[str, Role]) -> Iterator[tuple[int, str, str]]:
    """(row, role, what) of rows whose words and tags, or numbers, are not equally many."""
    kinds: tuple[RoleKind, ...] = ("tags", "numbers")
    for kind in kinds:
        pair = word_roles(roles, kind)
        if pair is None or table.tokenised or not set(pair) <= set(table.rows.column_names):
            continue
        columns = (table.rows.column(name).to_pylist() for name in pair)
        for row, (words, each) in enumerate(zip(*columns, strict=True)):
            if words and each is not None and len(words) != len(each):
                yield row, pair[1], f"{len(words):,} words, but {len(each):,} {kind}"


def iob_warnings(table: DataTable, roles: Mapping[str, Role]) -> list[str]:
    """Entities that start with `I-`, counted: IOB2 starts each with `B-`."""
    pair = word_roles(roles)
    if pair is None or table.tokenised:
        return []
    sentences = table.rows.column(pair[1]).to_pylist()
    if not has_scheme({tag for tags in sentences for tag in tags or () if tag != NOT_COUNTED}):
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
    """Tags inside an entity (`I-`, `E-`, `L-`) that none of the same type opens."""
    before = OUTSIDE, ""
    for tag in tags:
        prefix, kind = (OUTSIDE, "") if tag == NOT_COUNTED else parts_of(tag)
        if prefix in ("I", "E") and (before[0] not in ("B", "I") or before[1] != kind):
            yield tag
        before = prefix, kind

"""Which column plays which role: as the recipe says, or by the usual names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bigbatch.errors import DataError, Problem
from bigbatch.files.problems import data_error, listed, nearest, one_error
from bigbatch.protocols import Role

ID = "id"
"""Not a role of any task: a row's own name, kept for predictions and duplicate checks."""

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "text": (
        "text", "sentence", "sentence1", "premise", "text_a", "question1", "content", "review", "tweet", "comment",
        "message", "body", "document", "utterance", "query", "input",
    ),
    "query": (
        "query", "question", "anchor", "search", "sentence1", "sentence_a", "sentence_0", "text1",
    ),
    "document": (
        "document", "positive", "answer", "passage", "doc", "sentence2", "sentence_b", "sentence_1", "text2",
    ),
    "negative": ("negative", "hard_negative", "sentence3", "sentence_c", "sentence_2"),
    "prompt": ("prompt", "instruction", "question", "query", "input"),
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat"),
    "chosen": ("chosen", "preferred", "accepted", "winner"),
    "rejected": ("rejected", "dispreferred", "loser"),
    "user": ("user", "user_id", "userid", "customer", "customer_id", "session", "session_id", "visitor_id"),
    "item": ("item", "item_id", "itemid", "items", "product", "product_id", "movie_id", "movieid", "article_id"),
    "time": ("time", "timestamp", "date", "datetime", "ts"),
    "title": ("title", "item_title", "movie_title", "name"),
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph", "document"),
    "answers": ("answers", "answer"),
    "sequence": ("sequence", "seq", "text"),
    "structure": ("structure", "fold", "dot_bracket", "secondary_structure", "coordinates"),
    "pair": ("pair", "text_pair", "sentence2", "hypothesis", "text_b", "question2"),
    "label": ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "y"),
    "labels": ("labels", "label", "tags", "categories", "topics", "classes"),
    "image": (
        "image", "img", "path", "image_path", "file", "file_name", "filename", "filepath", "pixels",
    ),
    "boxes": ("boxes", "bboxes", "bbox"),
    "classes": ("classes", "categories", "labels", "category"),
    "words": ("words", "tokens"),
    "tags": ("tags", "ner_tags", "labels", "ner", "pos_tags", "pos", "chunk_tags"),
    "number": ("number", "label", "target", "score", "value", "rating", "stars", "y"),
    ID: ("id", "idx", "row_id", "uid", "guid"),
}  # fmt: skip
"""Names that are taken for a role when `data.columns` does not say, the first ones first."""


def pick_columns(
    available: Sequence[str], wanted: Mapping[str, str], roles: Mapping[str, Role], where: str
) -> dict[str, str]:
    """Role -> column for one source; optional roles and `id` only when there is a column for them.

    Args:
        available: the columns that the source has.
        wanted: `data.columns` (role -> column).
        roles: what the task reads.
        where: the source, for messages.

    Raises:
        DataError: an unknown role, a column that is not there, or a role that no column or several fit.
    """
    problems = [
        Problem(where="", key=f"data.columns.{role}", what=_unknown_role(role, roles))
        for role in wanted
        if role not in roles and role != ID
    ]
    picked: dict[str, str] = {}
    for role in [*roles, ID]:
        try:
            column = _pick(role, available, wanted, roles, where)
        except DataError as error:
            problems += error.problems
        else:
            if column is not None:
                picked[role] = column
    if problems:
        raise data_error(problems)
    return picked


def guess_column(role: str, kind: str, available: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Columns whose name suggests this role, best first; names are compared without case.

    Args:
        role: `text`, `label`, …
        kind: `Role.kind`; numbers have names of their own.
        available: columns of the source.
        taken: columns that other roles have already.
    """
    names = dict.fromkeys((role, *SYNONYMS.get(role, ()), *(SYNONYMS["number"] if kind == "number" else ())))
    by_name: dict[str, str] = {}
    for column in available:
        by_name.setdefault(column.strip().lower(), column)
    return [by_name[name] for name in names if name in by_name and by_name[name] not in taken]


def _pick(
    role: str, available: Sequence[str], wanted: Mapping[str, str], roles: Mapping[str, Role], where: str
) -> str | None:
    if role in wanted:
        if wanted[role] in available:
            return wanted[role]
        # A header's names are read without the blanks around them, others as they are.
        bare = [column for column in available if column.strip() == wanted[role].strip()]
        if len(bare) == 1:
            return bare[0]
        what = f"no column {wanted[role]!r}{nearest(wanted[role], available) or '.'} There are: {listed(available)}"
        raise one_error(where, f"data.columns.{role}", what)
    required = role in roles and roles[role].required
    found = guess_column(
        role, roles[role].kind if role in roles else "text", available, tuple(wanted.values())
    )
    # The role's own name wins over any other; two other names at once are ambiguous.
    if found and (len(found) == 1 or found[0].lower() == role or not required):
        return found[0]
    if not required:
        return None
    meaning = f" ({roles[role].meaning})" if roles[role].meaning else ""
    if found:
        what = f"{listed(found)} could each be the {role}{meaning}; say which: data.columns: {{{role}: {found[0]}}}"
        raise one_error(where, f"data.columns.{role}", what)
    hint = "; is the first line a header?" if _no_header(available) else nearest(role, available)
    what = f"no column for the {role}{meaning}; set data.columns: {{{role}: …}}. There are: {listed(available)}{hint}"
    raise one_error(where, f"data.columns.{role}", what)


def _unknown_role(role: str, roles: Mapping[str, Role]) -> str:
    return f"this task has no such role{nearest(role, roles)} It reads: {listed([*roles, ID])}"


def _no_header(available: Sequence[str]) -> bool:
    """Names that look like values: long sentences, or numbers."""
    return any(len(name.split()) > 4 or name.replace(".", "", 1).isdigit() for name in available)

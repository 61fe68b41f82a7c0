"""Two columns of texts that belong together and no label: sentences and translations, questions and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bigbatch.data.columns import ID, guess_column
from bigbatch.data.language import count_words
from bigbatch.errors import Problem
from bigbatch.files.boxes import boxes_of, holds_boxes
from bigbatch.files.folds import holds_folds
from bigbatch.files.problems import data_error, listed, nearest
from bigbatch.files.squad import holds_answers

_ASKING = (
    "title",
    "headline",
    "subject",
    "prompt",
    "source",
    "src",
    "sentence1",
    "premise",
    "input",
    "instruction",
)
_ANSWERING = (
    "summary",
    "abstract",
    "response",
    "target",
    "tgt",
    "output",
    "translation",
    "sentence2",
    "hypothesis",
)
_FEWEST_LETTERS = 0.7
"""Of all characters but blanks; dates, numbers and codes have fewer."""
_FEWEST_DISTINCT = 0.5
_SHORTER = 0.67


PREFERRED = ("prompt", "chosen", "rejected")
"""Roles of a prompt and its two answers."""
MATCHED = ("query", "document", "negative")
"""Roles of texts that belong together."""
WRITTEN = ("source", "target")
"""Roles of a text, and of the one that is written from it."""
ASKED = ("context", "question", "answers")
"""Roles of a text, a question about it, and where the answers stand."""
FOLDED = ("sequence", "structure")
"""Roles of a sequence and how it is folded."""
EVENTS = ("user", "item", "time", "title")
"""Roles of who had which item when, and what it is called."""
_TOGETHER = (
    ("query", "document"),
    ("words", "tags"),
    ("boxes", "classes"),
    WRITTEN,
    PREFERRED,
    ASKED,
    FOLDED,
)
"""Roles that come together."""
_ROLES = (
    "image",
    "text",
    "pair",
    "label",
    ID,
    *MATCHED,
    *PREFERRED,
    "words",
    "tags",
    "boxes",
    "classes",
    *WRITTEN,
    *ASKED,
    *FOLDED,
    *EVENTS,
    "messages",
)
_WRITES = {
    "source": ("target",),
    "src": ("tgt", "trg"),
    **dict.fromkeys(
        ("text", "article", "document", "dialogue", "report"), ("summary", "highlights", "abstract")
    ),
}
"""Names of a source -> those of its target."""
_LANGUAGES = frozenset({
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "gu", "he", "hi", "hr", "hu",
    "id", "is", "it", "ja", "kk", "ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv",
    "sw", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
})  # fmt: skip
"""What columns of translations are called, with or without a country behind it."""


def preference(columns: Mapping[str, Sequence[object]], said: Mapping[str, str]) -> dict[str, str] | None:
    """Role -> column of prompts with a chosen and a rejected answer; None where the data are no such thing.

    Args:
        columns: some values of each column; told by the names `chosen` and `rejected`, or their like.
        said: role -> column, as the user has it.
    """
    if "chosen" in said:
        return {role: said[role] for role in PREFERRED}
    if said.keys() - {ID}:
        return None
    texts = [name for name, values in columns.items() if any(isinstance(value, str) for value in values)]
    found = {role: guess_column(role, "text", texts) for role in PREFERRED}
    return {role: names[0] for role, names in found.items()} if all(found.values()) else None


def asked(columns: Mapping[str, Sequence[object]], said: Mapping[str, str]) -> dict[str, str] | None:
    """Role -> column of questions whose answers stand in texts; None where the data are no such thing.

    Args:
        columns: some values of each column; answers are told by their form.
        said: role -> column, as the user has it.
    """
    if "answers" in said:
        return {role: said[role] for role in ASKED}
    texts = [name for name, values in columns.items() if any(isinstance(value, str) for value in values)]
    found = {role: guess_column(role, "text", texts) for role in ASKED[:2]}
    places = [name for name in guess_column("answers", "text", list(columns)) if holds_answers(columns[name])]
    if said.keys() - {ID} or not places or not all(found.values()):
        return None
    return {**{role: names[0] for role, names in found.items()}, "answers": places[0]}


def folded(columns: Mapping[str, Sequence[object]], said: Mapping[str, str]) -> dict[str, str] | None:
    """Role -> column of sequences and how they are folded; None where the data are no such thing.

    Args:
        columns: some values of each column; folds are told by their form.
        said: role -> column, as the user has it.
    """
    if "structure" in said:
        return {role: said[role] for role in FOLDED}
    texts = [name for name, values in columns.items() if any(isinstance(value, str) for value in values)]
    places = [name for name in guess_column("structure", "fold", list(columns)) if holds_folds(columns[name])]
    letters = guess_column("sequence", "text", texts, places[:1])
    if said.keys() - {ID} or not places or not letters:
        return None
    return {"sequence": letters[0], "structure": places[0]}


def boxed(columns: Mapping[str, Sequence[object]], said: Mapping[str, str]) -> dict[str, str] | None:
    """Role -> column of images with boxes, and a class for each of these; None where the data are no such thing.

    Args:
        columns: some values of each column; boxes are told by their form, their classes by being as many.
        said: role -> column, as the user has it.
    """
    if "boxes" in said:
        return {role: said[role] for role in ("boxes", "classes")}
    found = [name for name in guess_column("boxes", "boxes", list(columns)) if holds_boxes(columns[name])]
    if said.keys() - {ID, "image"} or not found:
        return None
    many = [len(boxes or ()) for boxes in map(boxes_of, columns[found[0]])]
    classes = [
        name
        for name in guess_column("classes", "classes", list(columns), found)
        if [len(each) if isinstance(each, (list, tuple)) else -1 for each in columns[name]] == many
    ]
    return {"boxes": found[0], "classes": classes[0]} if classes else None


def said_columns(said: Mapping[str, str], names: Sequence[str], where: str) -> dict[str, str]:
    """Role -> column as the user gave it, checked.

    Args:
        said: role -> column.
        names: the columns there are.
        where: the files, for messages.

    Raises:
        DataError: an unknown role, a column that is not there or has two roles, or half of a pair of roles.
    """
    problems = []
    for role, column in said.items():
        if role not in _ROLES:
            what = f"no task has such a role{nearest(role, _ROLES)}; there are: {listed(_ROLES)}"
        elif column not in names:
            what = f"no column {column!r}{nearest(column, names) or '.'} There are: {listed(names)}"
        elif list(said.values()).count(column) > 1:
            what = f"column {column!r} has two roles; each column has one"
        else:
            continue
        problems.append(Problem(where=where, key=f"--column {role}", what=what))
    for both in _TOGETHER:
        absent = [role for role in both if role not in said]
        if 0 < len(absent) < len(both):
            given = next(role for role in both if role in said)
            what = f"comes with {absent[0]}; add --column {absent[0]}=…"
            problems.append(Problem(where=where, key=f"--column {given}", what=what))
    kinds = [
        kind
        for kind in (MATCHED, WRITTEN, ("words", "tags"), ("text", "pair", "label"))
        if set(kind) & set(said)
    ]
    if len(kinds) > 1 and not problems:
        what = f"these are roles of different tasks: {listed(list(said))}"
        problems.append(Problem(where=where, key="--column", what=what))
    if problems:
        raise data_error(problems)
    return dict(said)


def texts_of_two(
    columns: Mapping[str, Sequence[object]], texts: Sequence[str], label: str | None
) -> dict[str, str]:
    """Roles of two columns of text -> column: `source` and `target` by their names, else, without a label, `query` and
    `document`; nothing where there are no two.

    Args:
        columns: a sample of each column, in the order of the file.
        texts: those that may be text, the likeliest first.
        label: the column that looks like a label; a target may.
    """
    columns = {name: values for name, values in columns.items() if name in texts}
    written = written_pair([name for name, values in columns.items() if holds_texts(values, 1)])
    if written and label in (None, *written.values()):
        return written
    return text_pair(columns, texts[:1]) if label is None else {}


def written_pair(names: Sequence[str]) -> dict[str, str]:
    """`source` and `target` -> column, where two of these columns of text are called so; else nothing.

    Example:
        >>> written_pair(["zh", "en-US", "id"]), written_pair(["summary", "text"]), written_pair(["a", "b"])
        ({'source': 'zh', 'target': 'en-US'}, {'source': 'text', 'target': 'summary'}, {})
    """
    lowered = {name.strip().lower(): name for name in reversed(names)}
    for source, targets in _WRITES.items():
        target = next((each for each in targets if each in lowered), None)
        if source in lowered and target is not None:
            return {"source": lowered[source], "target": lowered[target]}
    languages = [
        name for name in names if name.strip().lower().replace("_", "-").partition("-")[0] in _LANGUAGES
    ]
    # Indonesian, or what rows are called.
    named = [name for name in languages if name.strip().lower() != "id"]
    found = named if len(named) == len(WRITTEN) else languages
    return dict(zip(WRITTEN, found, strict=True)) if len(found) == len(WRITTEN) else {}


def text_pair(columns: Mapping[str, Sequence[object]], named: Sequence[str] = ()) -> dict[str, str]:
    """`query` and `document` (and `negative`) -> column, where these columns are that; else nothing.

    The query is the one called so, else the clearly shorter one, else the first.

    Args:
        columns: a sample of each column that may be text, in the order of the file.
        named: those that are called as texts are, whatever they hold.
    """
    texts = [name for name, values in columns.items() if name in named or holds_texts(values)]
    asked, found = guess_column("query", "text", texts), guess_column("document", "text", texts)
    query = next((name for name in asked if name not in found), None)
    document = next((name for name in found if name != query), None)
    negative = next(iter(guess_column("negative", "text", texts)), None)
    others = [name for name in texts if name not in (query, document, negative)]
    if query is None or document is None:
        if len(others) + (query is not None) + (document is not None) != 2:
            return {}
        query, document = _ordered(query, document, others, columns)
    pair = {"query": query, "document": document}
    return pair if negative is None else {**pair, "negative": negative}


def _ordered(
    query: str | None, document: str | None, others: Sequence[str], columns: Mapping[str, Sequence[object]]
) -> tuple[str, str]:
    if query is not None:
        return query, others[0]
    if document is not None:
        return others[0], document
    first, second = others
    lowered = first.strip().lower(), second.strip().lower()
    if lowered[1] in _ASKING or lowered[0] in _ANSWERING:
        return (second, first) if lowered[0] not in _ASKING else (first, second)
    if lowered[0] in _ASKING or lowered[1] in _ANSWERING:
        return first, second
    sizes = [sum(count_words(str(value)) for value in columns[name]) for name in (first, second)]
    return (second, first) if sizes[1] < _SHORTER * sizes[0] else (first, second)


def holds_texts(values: Sequence[object], fewest_words: int = 2) -> bool:
    """Mostly different texts of words, not dates, names of a few people or numbers."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if len(texts) < 0.9 * len(values) or not texts or len(set(texts)) < _FEWEST_DISTINCT * len(texts):
        return False
    shown = [character for text in texts for character in text if not character.isspace()]
    letters = sum(character.isalpha() for character in shown)
    return letters >= _FEWEST_LETTERS * len(shown) and sum(map(count_words, texts)) >= fewest_words * len(
        texts
    )

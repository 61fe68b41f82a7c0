"""Which class a value stands for: decided here alone, for every reader, for training and for what is matched with it.

::

    as a file or object has it                       class
    3, 3.0, "3", "3.0", Decimal("3")                 3
    true, True, "True", "TRUE"                       true
    date(2024, 5, 1), "2024-05-01 00:00:00"          2024-05-01
    " neg ", b"neg", numpy.str_("neg")               neg
    "nan", "NA", "null", "None" (text)               a class of that name
    null, None, NaN, pandas.NA, "" (an empty cell)   missing
    -100                                             not counted: neither learnt nor scored

Class names are text, so that a class has one name in every format. `docs/labels.md` has the whole table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from bigbatch.errors import Problem
from bigbatch.files.plain import BLANKS, is_missing, plain, text_of

NOT_COUNTED = "-100"
"""The name of no class: a row (a word) with it is neither learnt from nor scored."""
SEPARATOR = "|"
"""Between class names when a multi-label column holds text: `politics|sport`."""
LOOKS_MISSING = ("nan", "na", "n/a", "null", "none", "<na>", "nat")
"""Texts in small letters that are classes here and stand for a missing value elsewhere."""

_WHOLE = re.compile(r"([+-]?)0*([0-9]+)\.0+")
_MIDNIGHT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]00:00:00(?:\.0+)?")
"""How a date is written where the column may hold times too."""
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?[0-9]+(?:\.[0-9]*)?|True|False|true|false)"""
# Entries stand apart by commas, or by blanks alone where numpy wrote them.
# Blanks are taken once and for all: cells of a hundred thousand of them must not be tried in every division.
_LIST = re.compile(
    rf"\s*+[\[({{]\s*+(?:{_ITEM}(?:(?:\s*+,\s*+|\s++){_ITEM})*+(?:\s*+,)?)?\s*+[\])}}]\s*+", re.DOTALL
)
# What is meant as a list, also where it cannot be read as one: left out in the middle, of missing entries, of bytes, of
# words without quotes, or as a tensor prints. `[PAD]` and `(none)` are names.
_LIKE_A_LIST = re.compile(
    r"""\[\s*\]|\[.*,.*\]|\[.*(?:\.\.\.|…).*\]|[\[({]\s*b?['"].*[\])}]"""
    r"""|[\[{]\s*(?:[+-]?[0-9]+(?:\.[0-9]*)?|None|null|nan|NaN|NA|<NA>|[Tt]rue|[Ff]alse)\s*[\]}]"""
    r"""|\([^()]*,\s*\)|(?:tensor|array)\(.*\)""",
    re.DOTALL,
)
_PRINTED = re.compile(r"\s*(?:tensor|array)\(\s*\[.*\)\s*", re.DOTALL)
_HOT_TEXTS = {"0": 0, "1": 1}
_ITEMS = re.compile(_ITEM, re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}
_WORDS = {"true": True, "false": False}


def label_of(value: Any) -> str | None:
    """The class's name; None when missing. Of a name it is the name itself.

    Raises:
        ValueError: a number that is no integer, a list or an object.
    """
    if type(value) is str:
        return _class_of(value)
    value = plain(value)
    if is_missing(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (float, Decimal)):
        whole = value.is_integer() if isinstance(value, float) else _is_whole(value)
        if not whole:
            raise ValueError(
                f"{value} is not a class; for numbers set task: {{name: classify, kind: regression}}"
            )
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, (str, bytes, date, time)):
        several = "; for several labels a row set task: {name: classify, kind: multi}"
        hint = several if isinstance(value, (list, tuple, set, frozenset)) else ""
        raise ValueError(f"expected a label, found {type(value).__name__}{hint}")
    return _class_of(text_of(value) or "")


def _is_whole(number: Decimal) -> bool:
    return number.is_finite() and number == number.to_integral_value()


@lru_cache(maxsize=4096)
def _class_of(text: str) -> str | None:
    """Of text. Kept for a while: a column, and the words of its sentences, have the same few names over and over."""
    name = (text_of(text) or "").strip()
    if not name:
        return None
    if name.lower() in _WORDS:
        return name.lower()
    midnight = _MIDNIGHT.fullmatch(name)
    if midnight:
        return midnight[1]
    found = _WHOLE.fullmatch(name)
    if found:
        sign = "-" if found[1] == "-" and found[2] != "0" else ""
        return f"{sign}{found[2]}"
    if _is_written_list(name) or (name[-1] in "])}" and _LIKE_A_LIST.fullmatch(name)):
        raise ValueError(
            f"{name[:40]!r} is a list written as text; for several labels a row set task: "
            "{name: classify, kind: multi}"
        )
    return name


def tags_of(value: Any) -> list[str] | None:
    """The tags of a sentence, one a word: a list, or text that is split at blanks; None when missing.

    Raises:
        ValueError: an entry that is missing or no tag.
    """
    value = plain(value)
    if not is_missing(value) and not isinstance(value, (list, tuple, str, bytes)):
        raise ValueError(f"expected a list of tags, one a word, found {type(value).__name__}")
    found = entries_of(value, BLANKS)
    if found is None:
        return None
    names = [label_of(tag) for tag in found]
    if None in names:
        raise ValueError(f"tag {names.index(None) + 1} is missing")
    if "-1" in names:
        what = "expected a tag, or -100 for a word that is not counted"
        raise ValueError(f"tag {names.index('-1') + 1} is -1; {what}")
    return [name for name in names if name is not None]


def labels_of(value: Any) -> list[str] | None:
    """Several class names: a list, or text with `|` between them; empty text is no label, None is missing.

    Raises:
        ValueError: an entry that is missing or is no label.
    """
    return _names(entries_of(value, SEPARATOR))


def label_lists(
    values: Sequence[Any], problem: Callable[[int, str], Problem]
) -> tuple[list[list[str] | None], list[Problem], int]:
    """A column of several labels a row as lists of names.

    Lists of zeros and ones, equally long, at least two, are multi-hot: place i is the class named `i`. This is decided
    for the column as a whole, since `[1, 0]` alone could be two class ids as well.

    Args:
        values: as the source has them.
        problem: given a row and what is wrong with it.

    Returns:
        Names, what is wrong, and the number of places (0: not multi-hot).
    """
    rows: list[list[Any] | None] = []
    problems = []
    for row, value in enumerate(values):
        try:
            rows.append(entries_of(value, SEPARATOR))
        except ValueError as error:
            rows.append(None)
            problems.append(problem(row, str(error)))
    rows = _hot_from_texts(rows)
    lists = [row for row in rows if row is not None]
    if not problems and _all_hot(lists):
        widths = Counter(map(len, lists))
        width = max(widths, key=lambda size: widths[size])
        odd = [(row, len(hot)) for row, hot in enumerate(rows) if hot is not None and len(hot) != width]
        problems = [problem(row, _unequal(size, width)) for row, size in odd]
        hot_names = [
            None if row is None else [str(place) for place, entry in enumerate(row) if entry == 1]
            for row in rows
        ]
        return hot_names, problems, width
    names: list[list[str] | None] = []
    for row, entries in enumerate(rows):
        try:
            names.append(_names(entries))
        except ValueError as error:
            names.append(None)
            problems.append(problem(row, str(error)))
    return names, problems, 0


def entries_of(value: Any, separators: str) -> list[Any] | None:
    """The entries of a value that holds several: of a list, of a list written as text, or of text between separators.

    Raises:
        ValueError: text that starts as a list and is none.
    """
    value = plain(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        entries = [plain(entry) for entry in value]
        return sorted(entries, key=repr) if isinstance(value, (set, frozenset)) else entries
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        value = text_of(value)
    if not isinstance(value, str):
        if hasattr(value, "keys"):
            raise ValueError(f"expected a list, found {type(value).__name__}")
        return [value]
    if _PRINTED.fullmatch(value):
        raise ValueError(f"{value.strip()[:40]!r} is a tensor as it prints; write it as a list: [1, 0]")
    written = written_list(value)
    if written is not None:
        return written
    return [part for part in re.split(f"[{re.escape(separators)}]", value) if part.strip()]


def written_list(text: str) -> list[Any] | None:
    """The entries of a list that a table has as text, `['a', 'b']` or `[1, 0]`; None when it is none.

    Raises:
        ValueError: text in square brackets that cannot be read as a list.
    """
    start = text.strip()[:1]
    if start not in ("[", "(", "{"):
        return None
    if _LIST.fullmatch(text) is None or (start != "[" and not _is_written_list(text)):
        if start == "[" and text.rstrip().endswith("]"):
            raise ValueError(f"{text.strip()[:40]!r} looks like a list and cannot be read as one: ['a', 'b']")
        return None
    return [_entry(item) for item in _ITEMS.findall(text)]


def _entry(item: str) -> Any:
    if item[0] in "'\"":
        return _ESCAPE.sub(lambda found: _unescaped(found[1]), item[1:-1])
    if item.lower() in _WORDS:
        return _WORDS[item.lower()]
    return float(item) if "." in item else int(item)


def _unescaped(written: str) -> str:
    return chr(int(written[1:], 16)) if len(written) > 1 else _CONTROLS.get(written, written)


def _is_written_list(text: str) -> bool:
    """Whether text is a list of quoted texts, or of several entries."""
    if text.strip()[:1] not in ("[", "(", "{") or _LIST.fullmatch(text) is None:
        return False
    items = _ITEMS.findall(text)
    return len(items) > 1 or any(item[0] in "'\"" for item in items)


def _names(entries: Sequence[Any] | None) -> list[str] | None:
    if entries is None:
        return None
    names = [label_of(entry) for entry in entries]
    if None in names:
        raise ValueError("one of the labels is missing")
    for name, entry in zip(names, entries, strict=True):
        if name in ("-1", NOT_COUNTED) and not isinstance(entry, str):
            raise ValueError(f"{name} is none of several labels; expected names, or zeros and ones")
    return [name for name in dict.fromkeys(names) if name is not None]


def _hot_from_texts(rows: list[list[Any] | None]) -> list[list[Any] | None]:
    """Lists of the texts "0" and "1" alone, as `1|0|1` or `["1", "0"]` has them, as numbers."""
    entries = [entry for row in rows if row is not None for entry in row]
    if not entries or not all(isinstance(entry, str) and entry.strip() in _HOT_TEXTS for entry in entries):
        return rows
    hot = [None if row is None else [_HOT_TEXTS[entry.strip()] for entry in row] for row in rows]
    return hot if _all_hot([row for row in hot if row is not None]) else rows


def _all_hot(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether all are zeros and ones that are no class ids: equally long (two at least), fractional, or repeating."""
    if not lists or not all(
        isinstance(entry, (bool, int, float, Decimal)) and entry in (0, 1) for row in lists for entry in row
    ):
        return False
    widths = {len(row) for row in lists}
    if max(widths) < 2:
        return False
    typed = any(not isinstance(entry, int) or isinstance(entry, bool) for row in lists for entry in row)
    return len(widths) == 1 or typed or any(len(set(row)) < len(row) for row in lists)


def _unequal(found: int, width: int) -> str:
    return f"{found} zeros and ones, but {width} in most rows; a multi-hot list has a place for every label"

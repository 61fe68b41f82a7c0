"""CoNLL files: a word a line with its tag in the last column, sentences apart by empty lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from bigbatch.errors import Problem
from bigbatch.files.delimited import check_mark, not_utf8
from bigbatch.files.plain import lines_of
from bigbatch.files.problems import data_error, one_error
from bigbatch.files.raw import Raw, from_dicts

_DOCUMENT = "-DOCSTART-"
_COMMENT = re.compile(r"# (\S+ = |id |newdoc\b|newpar\b)")
"""Above a sentence, as CoNLL-U has it; a word may be `#` too."""

Line = tuple[int, list[str]]
"""Number from 1, and columns."""


def sentences(lines: Iterable[str]) -> Iterator[list[Line]]:
    """Sentences as their lines: columns apart by tabs, or by spaces where there is no tab. Other blanks (no-break,
    ideographic, …) are characters of words.
    """
    found: list[Line] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip("\r\n")
        apart = text.split("\t") if "\t" in text.strip(" \t") else text.split(" ")
        columns = [part.strip(" \t") for part in apart]
        if "\t" not in text.strip(" \t"):
            columns = [part for part in columns if part]
        if not any(columns) or columns[0] == _DOCUMENT:
            if found:
                yield found
            found = []
        elif found or not _COMMENT.match(text):
            found.append((number, columns))
    if found:
        yield found


def read_conll(name: str, content: bytes, encoding: str, learnt: bool = True) -> Raw:
    """Columns `words` (the first one) and, of rows to learn from, `tags` (the last one). A row's number is that of its
    first line.

    Args:
        name: of the file, for messages.
        content: the file, unpacked.
        encoding: of text.
        learnt: whether tags are read; rows to predict may lack them.

    Raises:
        DataError: text in another encoding; every line without a tag.
    """
    content = content[check_mark(name, content, encoding) :]
    try:
        text = content.decode("latin-1" if encoding == "latin-1" else "utf-8")
    except UnicodeDecodeError as error:
        place = f"{name}:{content[: error.start].count(10) + 1}"
        raise one_error(place, "", not_utf8(content[error.start])) from None
    rows = list(sentences(lines_of(text)))
    problems = [
        Problem(
            where=f"{name}:{number}", what="found one column; expected a word and, in the last one, its tag"
        )
        for sentence in rows
        for number, columns in sentence
        if learnt and len(columns) < 2
    ]
    if problems:
        raise data_error(problems)
    return from_dicts(
        name,
        [
            {
                "words": [columns[0] for _, columns in sentence],
                **({"tags": [columns[-1] for _, columns in sentence]} if learnt else {}),
            }
            for sentence in rows
        ],
        numbers=np.array([sentence[0][0] for sentence in rows], np.int64),
        nameless=True,
    )

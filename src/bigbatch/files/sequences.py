"""Sequences of nucleotides and amino acids: FASTA and FASTQ files, a row a record.

::

    >P69905 human kind=globin      a record begins; its id, what is said of it, and values by name
    MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLS
    HGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFK

    @read1                         FASTQ: four lines a record
    ACGT
    +
    IIII
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from bigbatch.errors import Problem
from bigbatch.files.delimited import check_mark, not_utf8
from bigbatch.files.plain import lines_of
from bigbatch.files.problems import data_error, one_error
from bigbatch.files.raw import Raw, from_dicts
from bigbatch.protocols import Row

_SEQUENCE = re.compile(r"[A-Za-z*\-.]*")
_NAMED = re.compile(r"([A-Za-z_]\w*)=(\S+)")
_OWN = ("id", "text", "description", "quality")


def read_fasta(name: str, content: bytes, encoding: str) -> Raw:
    """Columns `id` (the first word behind `>`), `text` (the sequence, letters as they stand) and `description` (the
    rest of that line); `key=value` in it is a column `key`. A row's number is that of its `>`.

    Args:
        name: of the file, for messages.
        content: the file, unpacked.
        encoding: of text.

    Raises:
        DataError: text in front of the first `>`, every record without a sequence, and characters that no sequence has.
    """
    rows: list[Row] = []
    numbers: list[int] = []
    parts: list[str] = []
    problems: list[Problem] = []

    def end() -> None:
        if not rows:
            return
        rows[-1] = {**rows[-1], "text": "".join(parts)}
        if not parts:
            problems.append(Problem(where=f"{name}:{numbers[-1]}", what="no sequence behind this line"))

    for number, line in enumerate(_lines(name, content, encoding), start=1):
        if line.startswith(">"):
            end()
            parts = []
            rows.append(_head(line[1:]))
            numbers.append(number)
        elif line.startswith(";") or not line.strip():
            continue
        elif not rows:
            raise one_error(
                f"{name}:{number}", "", f"expected a line that begins with >, found {line[:40]!r}"
            )
        else:
            found = "".join(line.split())
            problems += _strange(name, number, found)
            parts.append(found)
    end()
    if problems:
        raise data_error(problems)
    return from_dicts(name, _uniform(rows), numbers=np.array(numbers, np.int64), nameless=True)


def read_fastq(name: str, content: bytes, encoding: str) -> Raw:
    """As `read_fasta`, from records of four lines, with the letters of the quality as `quality`.

    Args:
        name: of the file, for messages.
        content: the file, unpacked.
        encoding: of text.

    Raises:
        DataError: every record that is not of this form.
    """
    lines = [line for line in _lines(name, content, encoding)]
    while lines and not lines[-1].strip():
        lines.pop()
    rows: list[Row] = []
    numbers: list[int] = []
    problems: list[Problem] = []
    for at in range(0, len(lines), 4):
        four, number = [line.strip() for line in lines[at : at + 4]], at + 1
        if len(four) < 4 or four[0][:1] != "@" or four[2][:1] != "+":
            what = "expected four lines: @id, sequence, +, quality; sequences over several lines are not read"
            raise data_error([*problems, Problem(where=f"{name}:{number}", what=what)])
        if len(four[1]) != len(four[3]):
            what = f"{len(four[1]):,} letters, and the quality of {len(four[3]):,}"
            problems.append(Problem(where=f"{name}:{number}", what=what))
        if not four[1]:
            problems.append(Problem(where=f"{name}:{number}", what="no sequence behind this line"))
        problems += _strange(name, number + 1, four[1])
        rows.append({**_head(four[0][1:]), "text": four[1], "quality": four[3]})
        numbers.append(number)
    if problems:
        raise data_error(problems)
    return from_dicts(name, _uniform(rows), numbers=np.array(numbers, np.int64), nameless=True)


def _lines(name: str, content: bytes, encoding: str) -> list[str]:
    content = content[check_mark(name, content, encoding) :]
    try:
        return lines_of(content.decode("latin-1" if encoding == "latin-1" else "utf-8"))
    except UnicodeDecodeError as error:
        place = f"{name}:{content[: error.start].count(10) + 1}"
        raise one_error(place, "", not_utf8(content[error.start])) from None


def _head(line: str) -> Row:
    """What stands behind the sign."""
    first, _, rest = line.strip().partition(" ")
    named = {key: value for key, value in _NAMED.findall(rest) if key not in _OWN}
    return {"id": first or None, "description": rest.strip() or None, **named}


def _strange(name: str, number: int, sequence: str) -> Iterator[Problem]:
    """Letters, gaps and stops are sequences; digits and other signs are not."""
    end = _SEQUENCE.match(sequence)
    place = end.end() if end else 0
    if place < len(sequence):
        what = f"{sequence[place]!r} (place {place + 1:,} of the line) stands in no sequence"
        yield Problem(where=f"{name}:{number}", what=what)


def _uniform(rows: Sequence[Row]) -> list[Row]:
    """Without columns that no row fills."""
    filled = {key for row in rows for key, value in row.items() if value is not None}
    return [{key: value for key, value in row.items() if key in filled} for row in rows]

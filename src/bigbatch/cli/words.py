"""Printing text that may come from data: control characters are made visible, never sent to the terminal."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TextIO

from bigbatch.errors import UsageError


def visible(text: str) -> str:
    r"""The text with control and direction-changing characters as escapes (`\x1b`, `\u202e`); newline and tab stay."""
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    # Cc: control characters, Cf: invisible formatting such as direction overrides, Cs: halves of surrogate pairs.
    # U+200D joins emoji and U+200C is ordinary spelling in some languages: both stay.
    if character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def say(lines: str | Iterable[str], stream: TextIO | None = None) -> None:
    """Print lines; what the stream's encoding cannot hold becomes an escape."""
    out: TextIO = sys.stdout if stream is None else stream
    encoding = getattr(out, "encoding", None) or "utf-8"
    for line in [lines] if isinstance(lines, str) else lines:
        text = visible(str(line)).encode(encoding, "backslashreplace").decode(encoding)
        out.write(f"{text}\n")
    out.flush()


def show(text: str) -> None:
    """Print a piece of text as it comes, without a line's end of its own."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(visible(text).encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def terminal_width() -> int | None:
    """Letters of a line of standard output, where that is a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def figures(values: Mapping[str, object], prefix: str = "") -> list[str]:
    """Names and numbers, lined up; nested mappings as `outer.inner`."""
    rows = list(_flat(values, prefix))
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {shown}" for name, shown in rows]


def _flat(values: Mapping[str, object], prefix: str) -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", f"{value:.6g}"
        elif value is not None:
            yield f"{prefix}{name}", str(value)


def columns_of(words: list[str] | None) -> dict[str, str]:
    """`--column ROLE=NAME`, given any number of times.

    Raises:
        UsageError: a word of another form.
    """
    pairs = [word.partition("=") for word in words or ()]
    for role, equals, name in pairs:
        if not (role and equals and name):
            raise UsageError(f"--column {role}: expected ROLE=NAME, such as text=review")
    return {role: name for role, _, name in pairs}

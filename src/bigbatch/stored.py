"""Files as they lie on a disk, read without trust: plain files only, limited in size, depth and numbers.

Whatever a command is pointed at, or finds in a folder, may be anything: a pipe that never ends, a device, 3 GB of
nothing, JSON nested 100,000 deep. Here it becomes bytes or a JSON value, or `Damaged` with the reason in words; what
that means (set aside, rebuilt, refused) is for the caller to say. A file that is not there is `FileNotFoundError`, one
that the system does not hand out is the system's own `OSError`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from io import BufferedReader
from pathlib import Path

from bigbatch.units import show_bytes

MOST_BYTES = 64 * 2**20
"""Of a JSON file, unless the caller knows better."""
MOST_VALUES = 10_000_000
"""In one JSON text: each takes about 100 bytes of memory, however few it takes in the file."""
MOST_DEPTH = 64
"""Lists and objects inside each other; nothing that is written here reaches a third of it."""
MOST_DIGITS = 40
"""Of a whole number: Python refuses to show those of more than 4,300."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that no name of a file and no UTF-8 text can hold."""


class Damaged(ValueError):
    """A file is there but cannot be used; the text says why, to be put behind the file's name."""


def check_plain(path: Path) -> int:
    """The size in bytes of a plain file; links are followed.

    Raises:
        Damaged: a folder, pipe, socket or device.
        OSError: not there, or not for us.
    """
    try:
        found = os.stat(path)
    except ValueError:  # a NUL in the name
        raise Damaged("no file can have this name") from None
    return _plain(found)


def open_plain(path: Path, *, links: bool = True) -> BufferedReader:
    """Open a plain file for reading; never waits for another process, as opening a pipe does.

    Args:
        path: the file.
        links: whether it may itself be a link to one; folders on the way to it may.

    Raises:
        Damaged: a folder, pipe, socket or device, or a link where none is followed.
        OSError: not there, or not for us.
    """
    if not links and path.is_symlink():
        raise Damaged("is a link; none is followed here")
    check_plain(path)  # before it is opened: for some devices that alone does something
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    # With the flag the system refuses a link that was put there a moment ago.
    handle = os.open(path, flags if links else flags | getattr(os, "O_NOFOLLOW", 0))
    try:
        _plain(os.fstat(handle))  # what the name meant a moment ago need not be what was opened
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _plain(found: os.stat_result) -> int:
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    kind = next((words for test, words in _KINDS if test(found.st_mode)), "no plain file")
    raise Damaged(f"is {kind}; expected a plain file")


def read_bytes(path: Path, *, most_bytes: int = MOST_BYTES, links: bool = True) -> bytes:
    """The content of a plain file.

    Args:
        path: the file.
        most_bytes: of which a larger one is refused.
        links: as `open_plain` has it.

    Raises:
        Damaged: not a plain file, or larger than `most_bytes`.
        OSError: not there, or not for us.
    """
    with open_plain(path, links=links) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        # As much as there is, since room is taken for what is asked; then what was added while it was read.
        content = file.read(size_bytes + 1) if size_bytes <= most_bytes else b""
        if size_bytes < len(content) <= most_bytes:
            content += file.read(most_bytes + 1 - len(content))
    if max(size_bytes, len(content)) > most_bytes:
        raise Damaged(
            f"has {show_bytes(max(size_bytes, len(content)))}; at most {show_bytes(most_bytes)} are read"
        )
    return content


def read_text(path: Path, *, most_bytes: int = MOST_BYTES) -> str:
    """The content of a plain file as UTF-8; a byte order mark is left out.

    Raises:
        Damaged: not a plain file, too large, or not UTF-8.
        OSError: not there, or not for us.
    """
    return _decoded(read_bytes(path, most_bytes=most_bytes))


def read_json(path: Path, *, most_bytes: int = MOST_BYTES, links: bool = True) -> object:
    """What a JSON file says: see `json_value`.

    Args:
        path: the file.
        most_bytes: of which a larger one is refused.
        links: as `open_plain` has it.

    Raises:
        Damaged: not a plain file, too large, or not JSON within the limits.
        OSError: not there, or not for us.
    """
    return json_value(read_bytes(path, most_bytes=most_bytes, links=links))


def read_object(path: Path, *, most_bytes: int = MOST_BYTES, links: bool = True) -> dict[str, object]:
    """As `read_json`, of a file that holds an object.

    Args:
        path: the file.
        most_bytes: of which a larger one is refused.
        links: as `open_plain` has it.

    Raises:
        Damaged: not a plain file, too large, not JSON within the limits, or no object.
        OSError: not there, or not for us.
    """
    found = read_json(path, most_bytes=most_bytes, links=links)
    if not isinstance(found, dict):
        raise Damaged(f"holds {_kind(found)}; expected a JSON object")
    return found


def json_value(text: bytes | str) -> object:
    """A JSON text as Python values, strict: every number is finite, every text can be written as UTF-8.

    Raises:
        Damaged: with what is wrong.
    """
    text = _decoded(text) if isinstance(text, bytes) else text
    openings = text.count("[") + text.count("{")
    if openings + text.count(",") > MOST_VALUES:
        raise Damaged(f"holds more than {MOST_VALUES:,} values")
    try:
        found = json.loads(text, parse_float=_finite, parse_int=_short, parse_constant=_no_number)
    except RecursionError:
        raise Damaged(f"is nested deeper than {MOST_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise Damaged(f"is not valid JSON: {error}") from None
    # Most texts cannot be too deep, and hold no escape that could hide a character: they are not walked through.
    if openings > MOST_DEPTH or "\\u" in text:
        _check(found)
    return found


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Damaged(f"is not UTF-8: byte {error.start:,} is 0x{content[error.start]:02x}") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Damaged(f"holds a number that is too large: {_shown(text)}")
    return number


def _short(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise Damaged(f"holds a number of {len(text):,} digits: {_shown(text)}")
    return int(text)


def _no_number(text: str) -> float:
    raise Damaged(f"holds {text}, which is no JSON")


def _check(found: object) -> None:
    """Depth and characters; by hand, since recursion is what is to be avoided."""
    level, depth = [found], 0
    while level:
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                if _UNUSABLE.search(value):
                    raise Damaged(f"holds a text that no file can hold: {_shown(ascii(value))}")
            elif isinstance(value, dict):
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
        level, depth = below, depth + 1
        if depth > MOST_DEPTH + 1:
            raise Damaged(f"is nested deeper than {MOST_DEPTH} levels")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), type(value).__name__)


def _shown(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}…"

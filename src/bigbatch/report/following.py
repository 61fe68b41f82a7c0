"""A journal followed while a run writes it: what is new since the last look, and never more than asked for.

Nothing is written and nothing is locked: a run cannot notice. A line without its end is left for the next look. A
resume puts a shorter file in the journal's place; its beginning is known by the bytes before the offset.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from bigbatch.documents import Line, record_of
from bigbatch.stored import Damaged, open_plain

LOOK_BYTES = 2**23
"""Read in one look; a journal of gigabytes takes several."""
_LINE_BYTES = 2**26
_SEAL_BYTES = 4096


@dataclass(frozen=True)
class Mark:
    """How far a journal was read."""

    offset: int = 0
    """Bytes, at the end of a line."""
    seal: str = ""
    """SHA-256 of up to 4,096 bytes before the offset, hexadecimal: what tells the file from one put in its place."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found."""

    lines: tuple[Line, ...] = ()
    anew: bool = False
    """The file is another one, or shorter: these lines are from its beginning."""
    left_bytes: int = 0
    """Behind the mark; a look may have ended before the file does."""
    problems: tuple[str, ...] = field(default=())
    """Lines that are no records, one sentence each; they are passed over."""


class Follower:
    """Reads `metrics.jsonl` on from where it last stopped. Example:

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "metrics.jsonl"
    >>> _ = path.write_text('{"kind": "event", "step": 0, "event": "note"}\\n{"kind": "upd')
    >>> follower = Follower(path)
    >>> [len(follower.look().lines) for _ in range(2)], follower.mark.offset
    ([1, 0], 46)
    """

    def __init__(self, path: Path, mark: Mark = Mark()) -> None:
        self.path = path
        self.mark = mark

    def look(self, most_bytes: int = LOOK_BYTES) -> Look:
        """The whole lines behind the mark, which moves behind them; none while there is no file.

        Args:
            most_bytes: read at most about so many; a line longer than that is read whole.

        Raises:
            Damaged: not a plain file, a link, or a line that is longer than any record.
            OSError: not for us.
        """
        try:
            with open_plain(self.path, links=False) as file:
                return self._look(file, most_bytes)
        except FileNotFoundError:
            anew, self.mark = self.mark.offset > 0, Mark()
            return Look(anew=anew)

    def _look(self, file: BufferedReader, most_bytes: int) -> Look:
        size = os.fstat(file.fileno()).st_size
        anew = self.mark.offset > size or _seal(file, self.mark.offset) != self.mark.seal
        begin = 0 if anew else self.mark.offset
        if begin == size:
            return Look(anew=anew)
        file.seek(begin)
        block = file.read(min(most_bytes, size - begin))
        if b"\n" not in block and len(block) < size - begin:
            block += file.readline(_LINE_BYTES)
            if len(block) >= _LINE_BYTES:
                raise Damaged(f"has a line of more than {_LINE_BYTES:,} bytes")
        whole = block[: block.rfind(b"\n") + 1]
        lines: list[Line] = []
        problems: list[str] = []
        for text in whole.split(b"\n")[:-1]:
            try:
                lines.append(record_of(text))
            except Damaged as error:
                problems.append(f"A line of {self.path.name} {error}: it was left out.")
        offset = begin + len(whole)
        self.mark = Mark(offset, _seal(file, offset))
        return Look(
            lines=tuple(lines), anew=anew, left_bytes=size - offset, problems=tuple(dict.fromkeys(problems))
        )


def _seal(file: BufferedReader, offset: int) -> str:
    if not offset:
        return ""
    begin = max(0, offset - _SEAL_BYTES)
    file.seek(begin)
    return hashlib.sha256(file.read(offset - begin)).hexdigest()

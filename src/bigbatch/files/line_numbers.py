"""Lines of a text file as an editor counts them, and carriage returns that stand where no line should end."""

from __future__ import annotations


class Lines:
    """Asked for in ascending order, so that counting them all takes one walk through the file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._end = b"\n" if b"\n" in data[:-1] else b"\r"  # of old Macs
        self._number, self._counted = 1, 0

    def number(self, offset: int) -> int:
        """The line that a byte is in."""
        self._number += self._data.count(self._end, self._counted, offset)
        self._counted = offset
        return self._number

    def stray_return(self, end: int, skipped: int, remedy: str) -> str:
        """What to say of what ends in a bare carriage return, where the lines of this file do not; else nothing.

        Args:
            end: behind the last byte of it.
            skipped: bytes of the file in front of the data.
            remedy: what to do.
        """
        if self._end == b"\r" or self._data[end - 1 : end] != b"\r":
            return ""
        place = f"(\\r, byte offset {end - 1 + skipped:,})"
        return f"; it ends in a bare carriage return {place}, and lines here end in \\n: {remedy}"

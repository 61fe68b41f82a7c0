"""How deep a JSON file is and how much it holds, found without building any of it: vocabularies have 40 MB and more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bigbatch.stored import MOST_DEPTH, MOST_VALUES, Damaged, open_plain

_CHUNK_BYTES = 2**20
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{},'))


def check_nesting(path: Path) -> None:
    """Whether others may load a JSON file of any size: its depth and number of values, without building them.

    Whether it is JSON at all is not asked.

    Raises:
        Damaged: not a plain file, too deep, or too many values.
        OSError: not there, or not for us.
    """
    depth = values = 0
    inside = False
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
                chunk += file.read(1)  # what the last backslash escapes
            # Escaped backslashes first, so that a backslash before a quotation mark escapes that.
            bare = chunk.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
            marks = np.frombuffer(bare, np.uint8)
            quotes = np.cumsum(marks == ord('"'), dtype=np.int32)
            outside = marks[(quotes + inside) % 2 == 0]
            opened = (outside == ord("[")) | (outside == ord("{"))
            closed = (outside == ord("]")) | (outside == ord("}"))
            depths = depth + np.cumsum(opened.astype(np.int32) - closed)
            if len(depths):
                if depths.max() > MOST_DEPTH:
                    raise Damaged(f"is nested deeper than {MOST_DEPTH} levels")
                depth = int(depths[-1])
            values += int(opened.sum() + (outside == ord(",")).sum())
            if values > MOST_VALUES:
                raise Damaged(f"holds more than {MOST_VALUES:,} values")
            inside = bool((inside + (quotes[-1] if len(quotes) else 0)) % 2)

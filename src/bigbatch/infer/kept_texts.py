"""Texts into a file: one record a row, in order. What was written survives an interruption, and nothing is replaced.

`OUT.partial` gets each record as it is written, with its row's number; once all are there they become `OUT`, in order.
The same command goes on where it stopped, since a text does not depend on those beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bigbatch.errors import DiskError, UsageError
from bigbatch.infer.prompts import Prompt
from bigbatch.infer.sampling import Decoding
from bigbatch.infer.writers import check_output, open_output
from bigbatch.model.files import folder_digest
from bigbatch.protocols import Json
from bigbatch.stored import Damaged, json_value, open_plain
from bigbatch.written import open_append, remove, replace_bytes

Record = Mapping[str, Json]


def what_is_written(place: Path, prompts: Sequence[Prompt], how: Decoding) -> str:
    """Hash of what decides the texts: model, prompts, way of writing.

    Args:
        place: of the model: a run, or a folder.
        prompts: to write from.
        how: to write.
    """
    found = hashlib.sha256(repr(how).encode())
    folder = place / "model" if (place / "model").is_dir() else place
    found.update(folder_digest(folder, folder).encode())
    for prompt in prompts:
        for stream in (prompt.sample.ids, *(each["ids"] for each in prompt.sample.streams.values())):
            found.update(stream.tobytes() + b"|")
        found.update(json.dumps(prompt.told, sort_keys=True, default=str).encode())
    return found.hexdigest()


class KeptTexts:
    """A file that is complete or absent, and beside it what there is of it."""

    def __init__(self, out: Path, what: str, source: Path | None) -> None:
        """Look at what an earlier command left.

        Args:
            out: `.jsonl` or `.csv`, not there yet.
            what: hash of what is written.
            source: the file of the prompts, which is never overwritten.

        Raises:
            UsageError: the file is there; or another command, or an older one, left its part.
            DiskError: the part cannot be read or written.
        """
        self._out, self._source = out, source
        self._partial = out.with_name(f"{out.name}.partial")
        check_output(out, source)
        self._records = self._left(what)
        head = json.dumps({"bigbatch": "generate", "what": what})
        lines = [head, *(_line(number, record) for number, record in self._records.items())]
        try:
            # Without the half of a line that a kill may have left.
            replace_bytes(self._partial, "".join(f"{line}\n" for line in lines).encode())
            self._file = open_append(self._partial, buffering=0)
        except OSError as error:
            raise DiskError(f"{self._partial}: cannot be written: {error.strerror}") from error

    @property
    def rows(self) -> frozenset[int]:
        """Numbers of the rows that are there."""
        return frozenset(self._records)

    @property
    def partial(self) -> Path:
        """Where they are."""
        return self._partial

    def add(self, number: int, record: Record) -> None:
        """Keep a row's record.

        Raises:
            DiskError: it cannot be written.
        """
        self._records[number] = record
        try:
            self._file.write(f"{_line(number, record)}\n".encode())
        except OSError as error:
            raise DiskError(f"{self._partial}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Leave the part as it is."""
        os.fsync(self._file.fileno())
        self._file.close()

    def publish(self) -> None:
        """The whole file, in order of rows; its part is removed."""
        self.close()
        with open_output(self._out, self._source) as write:
            for number in sorted(self._records):
                write(self._records[number])
        remove(self._partial)

    def _left(self, what: str) -> dict[int, Record]:
        if not os.path.lexists(self._partial):
            return {}
        found: dict[int, Record] = {}
        try:
            with open_plain(self._partial) as file:
                lines = _whole_lines(file.read())
                head = next(lines, None)
                if not isinstance(head, dict) or head.get("what") != what:
                    raise UsageError(
                        f"{self._partial}: left by a command with another model, other prompts or another way of "
                        "writing: remove it, or choose another name"
                    )
                for line in lines:
                    if isinstance(line, dict) and isinstance(line.get("row"), int):
                        record = line.get("record")
                        found[line["row"]] = record if isinstance(record, dict) else {}
        except (OSError, Damaged) as error:
            raise DiskError(f"{self._partial}: cannot be read: {error}; remove it") from error
        return found


def _whole_lines(content: bytes) -> Iterator[object]:
    for line in content.split(b"\n")[:-1]:
        yield json_value(line)


def _line(number: int, record: Record) -> str:
    return json.dumps({"row": number, "record": record}, ensure_ascii=True, allow_nan=False)

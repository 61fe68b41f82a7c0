"""metrics.jsonl: one record a line, exactly one `update` record per update, also after resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bigbatch.records import Record
from bigbatch.run.durable import FILES, FileOps, append_line, atomic_write_bytes, fsync_file


class Journal:
    """Appends records to `RUN/metrics.jsonl`.

    A line reaches the system in one write, so a kill of the process loses none; `sync` before each checkpoint
    makes the lines durable that the checkpoint relies on. On opening, a torn end (a power cut) moves to
    `metrics.lost-N.jsonl`, so that the file always holds whole records.
    """

    def __init__(self, directory: Path, *, ops: FileOps = FILES) -> None:
        """Open, and repair if need be, the journal of a run directory.

        Raises:
            DiskError: the repair could not be written.
        """
        self.path = directory / "metrics.jsonl"
        self.repaired_lines = 0
        """Lines, torn or behind a torn one, that opening moved away."""
        self._ops = ops
        self._last_update = 0
        self._open()

    def append(self, record: Record | Mapping[str, Any]) -> None:
        """Write one record.

        Raises:
            DiskError: it could not be written; no part of it is left in the file.
        """
        line = record.to_dict() if isinstance(record, Record) else dict(record)
        if line["kind"] == "update":
            assert line["step"] > self._last_update, f"update {line['step']} again, after {self._last_update}"
        text = json.dumps(_strict(line), ensure_ascii=False, allow_nan=False)
        append_line(self.path, text, ops=self._ops)
        if line["kind"] == "update":
            self._last_update = line["step"]

    def sync(self) -> None:
        """Make everything appended so far survive a power cut; called at checkpoint boundaries."""
        if self.path.exists():
            fsync_file(self.path, ops=self._ops)

    def rewind_to(self, step: int, records: int | None = None) -> int:
        """Move the records of later steps to `metrics.lost-N.jsonl`: a resume does those updates again.

        `records`, the length of the journal when a checkpoint was written, also moves what came after it within
        the same step: evaluations that a resume repeats.

        The lost file is durable before the journal shrinks, so a crash in between loses nothing.

        Returns:
            How many records were moved.
        """
        kept: list[bytes] = []
        lost: list[bytes] = []
        for line in _lines(self.path):
            late = json.loads(line)["step"] > step or (records is not None and len(kept) >= records)
            (lost if late else kept).append(line)
        self._move_away(kept, lost)
        self._last_update = min(step, self._last_update)
        return len(lost)

    def read(self) -> Iterator[dict[str, Any]]:
        """All records, the oldest first."""
        return read_records(self.path)

    def _open(self) -> None:
        kept: list[bytes] = []
        torn: list[bytes] = []
        for line in _lines(self.path):
            found = None if torn else _parse(line)
            (torn if found is None else kept).append(line)
            if found and found["kind"] == "update":
                self._last_update = found["step"]
        self._move_away(kept, torn)
        self.repaired_lines = len(torn)

    def _move_away(self, kept: list[bytes], lost: list[bytes]) -> None:
        if not lost:
            return
        data = b"".join(lost)
        taken = sorted(self.path.parent.glob("metrics.lost-*.jsonl"), key=_number)
        # A crash after the first write below repeats both; the same lines are not filed twice.
        if not taken or taken[-1].read_bytes() != data:
            number = _number(taken[-1]) + 1 if taken else 1
            atomic_write_bytes(self.path.with_name(f"metrics.lost-{number}.jsonl"), data, ops=self._ops)
        atomic_write_bytes(self.path, b"".join(kept), ops=self._ops)


class NoJournal:
    """The journal of a rank that does not lead: rank 0 writes it."""

    repaired_lines = 0

    def append(self, record: Record | Mapping[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def rewind_to(self, step: int, records: int | None = None) -> int:
        """Nothing moves."""
        return 0


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, also while a run is writing it: a line that is not whole yet ends it."""
    for line in _lines(path):
        found = _parse(line)
        if found is None:
            return
        yield found


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their line end; nothing for a missing file."""
    if path.exists():
        with path.open("rb") as handle:
            yield from handle


def _parse(line: bytes) -> dict[str, Any] | None:
    """A whole record, or None: no line end, not JSON, or without the fields that every record has."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    whole = isinstance(found, dict) and isinstance(found.get("step"), int) and "kind" in found
    return found if whole else None


def _number(path: Path) -> int:
    digits = path.name.removeprefix("metrics.lost-").removesuffix(".jsonl")
    return int(digits) if digits.isdigit() else 0


def _strict(value: Any) -> Any:
    """JSON values only: NaN and Inf as None, numpy scalars as numbers, anything else as its text."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)

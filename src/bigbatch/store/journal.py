"""metrics.jsonl: one record a line, exactly one `update` record per update, also after resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from bigbatch.documents import Line, record_of
from bigbatch.protocols import Json
from bigbatch.records import Event, Record
from bigbatch.store.durable import FILES, FileOps, append_line, atomic_write_bytes, fsync_file, set_aside
from bigbatch.stored import Damaged, open_plain, read_bytes
from bigbatch.units import show_bytes

_MOST_BYTES = 2**26
"""Of a line."""


class Journal:
    """Appends records to `RUN/metrics.jsonl`.

    A line reaches the system in one write, so a kill of the process loses none; `sync` before each checkpoint
    makes the lines durable that the checkpoint relies on. On opening, a torn end (a power cut) moves to
    `metrics.lost-N.jsonl`; so does a damaged line, and an event says so in its place: the file always holds whole
    records, as many as were written.
    """

    def __init__(self, directory: Path, *, ops: FileOps = FILES) -> None:
        """Open, and repair if need be, the journal of a run directory.

        Raises:
            DiskError: the repair could not be written.
        """
        self.path = directory / "metrics.jsonl"
        self.repaired_lines = 0
        """Lines, torn or damaged, that opening moved away."""
        self.records = 0
        """Lines that the file holds."""
        self._ops = ops
        self._last_update = 0
        self.notes: tuple[str, ...] = ()
        """What had to be repaired, in sentences."""
        try:
            self._open()
        except Damaged as error:
            self._last_update = self.records = 0
            aside = set_aside(self.path, ops=ops)
            self.notes = (f"metrics.jsonl {error}: it is now {aside.name}, and the records begin anew",)

    def append(self, record: Record | Line) -> None:
        """Write one record.

        Raises:
            DiskError: it could not be written; no part of it is left in the file.
        """
        line = record.to_dict() if isinstance(record, Record) else record
        if line["kind"] == "update":
            assert line["step"] > self._last_update, f"update {line['step']} again, after {self._last_update}"
        text = json.dumps(_strict(line), ensure_ascii=False, allow_nan=False)
        append_line(self.path, text, ops=self._ops)
        self.records += 1
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
            late = record_of(line)["step"] > step or (records is not None and len(kept) >= records)
            (lost if late else kept).append(line)
        self._move_away(kept, lost)
        self.records = len(kept)
        self._last_update = min(step, self._last_update)
        return len(lost)

    def read(self) -> Iterator[Line]:
        """All records, the oldest first."""
        return read_records(self.path)

    def _open(self) -> None:
        kept: list[bytes] = []
        damaged: list[bytes] = []
        whole, last_step = 0, 0
        """Lines up to the last good one: what is behind it is a torn end."""
        for line in _lines(self.path):
            try:
                found = _record(line)
            except Damaged as error:
                damaged.append(line)
                kept.append(_in_its_place(last_step, str(error)))
                continue
            kept.append(line)
            whole, last_step = len(kept), found["step"]
            if found["kind"] == "update":
                self._last_update = found["step"]
        self._move_away(kept[:whole], damaged)
        self.records = whole
        self.repaired_lines = len(damaged)
        if len(damaged) > len(kept) - whole:  # not only a torn end
            self.notes = (f"metrics.jsonl had {len(damaged)} damaged lines, which are now in metrics.lost",)

    def _move_away(self, kept: list[bytes], lost: list[bytes]) -> None:
        if not lost:
            return
        data = b"".join(lost)
        taken = sorted(self.path.parent.glob("metrics.lost-*.jsonl"), key=_number)
        # A crash after the first write below repeats both; the same lines are not filed twice.
        if not taken or not _holds(taken[-1], data):
            number = _number(taken[-1]) + 1 if taken else 1
            atomic_write_bytes(self.path.with_name(f"metrics.lost-{number}.jsonl"), data, ops=self._ops)
        atomic_write_bytes(self.path, b"".join(kept), ops=self._ops)


class NoJournal:
    """The journal of a rank that does not lead: rank 0 writes it."""

    repaired_lines = 0
    records = 0
    notes: tuple[str, ...] = ()

    def append(self, record: Record | Line) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def read(self) -> Iterator[Line]:
        """Nothing."""
        return iter(())

    def rewind_to(self, step: int, records: int | None = None) -> int:
        """Nothing moves."""
        return 0


def read_records(path: Path) -> Iterator[Line]:
    """The records of a journal, also while a run is writing it: a line that is not whole yet ends it.

    Raises:
        Damaged: not a plain file, or a line that is longer than any record.
    """
    for line in _lines(path):
        try:
            found = _record(line)
        except Damaged:
            return
        yield found


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their line end; nothing for a missing file.

    Raises:
        Damaged: not a plain file, or a line that is longer than any record.
    """
    with suppress(FileNotFoundError), open_plain(path) as handle:
        while line := handle.readline(_MOST_BYTES):
            if len(line) == _MOST_BYTES:
                raise Damaged(f"has a line of more than {show_bytes(_MOST_BYTES)}")
            yield line


def _record(line: bytes) -> Line:
    """A whole record.

    Raises:
        Damaged: no line end, not JSON, or not what records hold.
    """
    if not line.endswith(b"\n"):
        raise Damaged("has no end")
    return record_of(line)


def _in_its_place(step: int, why: str) -> bytes:
    """An event where a damaged line was, so that the count of lines, which checkpoints know, stays."""
    event = Event(step=step, event="damaged_line", why=f"a line here {why}", did="moved it to metrics.lost")
    return json.dumps(_strict(event.to_dict())).encode() + b"\n"


def _holds(path: Path, data: bytes) -> bool:
    try:
        return read_bytes(path, most_bytes=len(data)) == data
    except (OSError, Damaged):
        return False


def _number(path: Path) -> int:
    digits = path.name.removeprefix("metrics.lost-").removesuffix(".jsonl")
    return int(digits) if digits.isdigit() else 0


@runtime_checkable
class _Listed(Protocol):
    def tolist(self) -> object: ...


def _strict(value: object) -> Json:
    """JSON values only: NaN and Inf as None, numpy scalars as numbers, anything else as its text."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, _Listed):  # numpy scalars, arrays and tensors
        return _strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)

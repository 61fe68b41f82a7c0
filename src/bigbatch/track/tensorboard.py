"""TensorBoard: one event file in RUN/track/tensorboard, cut back to what was remembered before it is gone on with.

Records are framed here, since tensorboardX begins a new file each time and tells nobody where in it a record ends; its
protocol buffers and its checksum are used. The file is TensorFlow's TFRecord: length, masked CRC-32C of the length,
bytes, masked CRC-32C of the bytes, all little-endian.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bigbatch.protocols import Json
from bigbatch.track.entries import Entry
from bigbatch.track.kinds import About, Ending
from bigbatch.written import make_folder, open_append, remove

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event

_NAME = "events.out.tfevents.0000000000.bigbatch"
"""TensorBoard looks for `tfevents` in it; the number is a time to it, and orders files."""


class EventFiles:
    """Scalars by update; events, recipe and plan as text."""

    def __init__(self) -> None:
        self._path = Path()
        self._about: About | None = None

    def open(self, about: About, kept: Json) -> bool:
        """Cut the file back to the bytes that were remembered."""
        self._about, folder = about, about.folder / "track" / "tensorboard"
        make_folder(folder)
        self._path = folder / _NAME
        size = kept if isinstance(kept, int) else 0
        if self._path.is_symlink() or (
            size and (not self._path.is_file() or self._path.stat().st_size < size)
        ):
            # What was there is gone: the records are not.
            with suppress(FileNotFoundError):
                remove(self._path)
            size, kept = 0, None
            anew = True
        else:
            anew = False
            with open_append(self._path) as file:
                file.truncate(size)
        if not size:
            from tensorboardX.proto.event_pb2 import Event

            first = Event(wall_time=0.0, file_version="brain.Event:2")
            self._write([first, *self._texts(about)])
        return anew

    def send(self, entries: Sequence[Entry]) -> Json:
        """Append, and flush to the disk."""
        return self._write([event for entry in entries for event in _events(entry)])

    def finish(self, ending: Ending) -> Json:
        """The final figures, as scalars of their own."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        value = [Summary.Value(tag=name, simple_value=figure) for name, figure in ending.figures.items()]
        words = _text("ending", f"{ending.state}; files are in {self._path.parent.parent.parent}")
        return self._write([Event(summary=Summary(value=value)), words])

    def _texts(self, about: About) -> list[Event]:
        return [
            _text(
                name,
                "| key | value |\n|---|---|\n"
                + "\n".join(f"| {_cell(key)} | {_cell(text)} |" for key, text in table),
            )
            for name, table in (("recipe", about.settings.items()), ("plan", about.plan.items()))
            if table
        ]

    def _write(self, events: Sequence[Event]) -> int:
        with open_append(self._path) as file:
            for event in events:
                data = event.SerializeToString()
                length = struct.pack("<Q", len(data))
                file.write(length + _checksum(length) + data + _checksum(data))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()


def _events(entry: Entry) -> list[Event]:
    if entry.event:
        return [_text(f"events/{entry.event}", _cell(entry.text), entry)]
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    value = [Summary.Value(tag=name, simple_value=figure) for name, figure in entry.figures.items()]
    return [Event(wall_time=entry.seconds, step=entry.step, summary=Summary(value=value))] if value else []


def _text(name: str, words: str, entry: Entry | None = None) -> Event:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import text as text_summary

    at = {} if entry is None else {"wall_time": entry.seconds, "step": entry.step}
    return Event(summary=text_summary(name, words), **at)


def _cell(text: str) -> str:
    """Markdown that stands for itself."""
    return (
        text.replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("\n", " ")
        .replace("<", "&lt;")
        .replace("`", "'")
    )


def _checksum(data: bytes) -> bytes:
    from tensorboardX.record_writer import masked_crc32c

    return struct.pack("<I", masked_crc32c(data))

"""A disk that can lose power: records file operations and rebuilds what a crash after any of them leaves.

Two kinds of crash are told apart. A *kill* ends the process: everything it did stays, only the last write may
be cut short. A *power cut* also loses what was never forced to the disk: contents written since the last fsync
of their file (all of them, or the second half), and names changed since the last fsync of their folder, where
a file system with a journal keeps a prefix of the changes in their order.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from bigbatch.store.checkpoints import CheckpointState
from bigbatch.store.durable import Buffer, FileOps


@dataclass(frozen=True)
class Op:
    """One recorded operation: create, write, fsync, rename, mkdir, remove, fsync_dir."""

    kind: str
    path: str
    target: str = ""
    data: bytes = b""


class RecordingOps(FileOps):
    """Does everything for real and remembers it."""

    def __init__(self) -> None:
        self.log: list[Op] = []

    def open(self, path: Path, *, append: bool = False) -> BinaryIO:
        assert not append, "the model of the disk knows whole files only"
        handle = super().open(path)
        self.log.append(Op("create", str(path)))
        return handle

    def write(self, handle: BinaryIO, data: Buffer) -> None:
        super().write(handle, data)
        self.log.append(Op("write", handle.name, data=bytes(data)))

    def fsync(self, handle: BinaryIO) -> None:
        self.log.append(Op("fsync", handle.name))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.log.append(Op("rename", str(source), str(target)))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self.log.append(Op("mkdir", str(path)))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.log.append(Op("remove", str(path)))

    def fsync_dir(self, path: Path) -> None:
        self.log.append(Op("fsync_dir", str(path)))


class FailingOps(FileOps):
    """Raises an OSError at the n-th operation that changes the disk, and at every later write."""

    def __init__(self, fail_at: int, code: int = errno.ENOSPC) -> None:
        self.fail_at, self.code, self.count = fail_at, code, 0

    def _step(self) -> None:
        self.count += 1
        if self.count == self.fail_at:
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path, *, append: bool = False) -> BinaryIO:
        self._step()
        return super().open(path, append=append)

    def write(self, handle: BinaryIO, data: Buffer) -> None:
        if self.count + 1 == self.fail_at:  # a full disk takes a part first
            super().write(handle, bytes(data)[: len(data) // 2])
        self._step()
        super().write(handle, data)

    def fsync(self, handle: BinaryIO) -> None:
        self._step()

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def mkdir(self, path: Path) -> None:
        self._step()
        super().mkdir(path)

    def fsync_dir(self, path: Path) -> None:
        self._step()


@dataclass
class Disk:
    """Names and contents: folders, and files as (durable bytes, bytes written since)."""

    folders: set[str] = field(default_factory=set)
    files: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Disk:
        """What is under `root` now, all of it durable."""
        paths = list(root.rglob("*"))
        return cls(
            {str(path) for path in (root, *paths) if path.is_dir()},
            {str(path): (path.read_bytes(), b"") for path in paths if path.is_file()},
        )

    def apply(self, op: Op) -> None:
        if op.kind != "fsync_dir":  # that one decides which names can be lost, see `_power_cuts`
            getattr(self, "_" + op.kind)(op)

    def write_to(self, root: Path, old_root: Path, unsynced: str) -> None:
        """Rebuild on the real disk; `unsynced` says what is left of unsynced contents: all, half or none."""
        for folder in sorted(self.folders):
            (root / Path(folder).relative_to(old_root)).mkdir(parents=True, exist_ok=True)
        for name, (durable, pending) in self.files.items():
            kept = {"all": len(pending), "half": len(pending) // 2, "none": 0}[unsynced]
            (root / Path(name).relative_to(old_root)).write_bytes(durable + pending[:kept])

    def _create(self, op: Op) -> None:
        if os.path.dirname(op.path) in self.folders:
            self.files[op.path] = (b"", b"")

    def _write(self, op: Op) -> None:
        if op.path in self.files:
            durable, pending = self.files[op.path]
            self.files[op.path] = (durable, pending + op.data)

    def _fsync(self, op: Op) -> None:
        if op.path in self.files:
            durable, pending = self.files[op.path]
            self.files[op.path] = (durable + pending, b"")

    def _mkdir(self, op: Op) -> None:
        if os.path.dirname(op.path) in self.folders:
            self.folders.add(op.path)

    def _remove(self, op: Op) -> None:
        """A folder takes along whatever a lost removal had left in it."""
        inside = op.path + os.sep
        self.files = {
            name: held for name, held in self.files.items() if not (name + os.sep).startswith(inside)
        }
        self.folders = {name for name in self.folders if not (name + os.sep).startswith(inside)}

    def _rename(self, op: Op) -> None:
        def moved(name: str) -> str:
            inside = name == op.path or name.startswith(op.path + os.sep)
            return op.target + name[len(op.path) :] if inside else name

        self.folders = {moved(name) for name in self.folders}
        sources = {name: held for name, held in self.files.items() if moved(name) != name}
        rest = {name: held for name, held in self.files.items() if moved(name) == name}
        self.files = rest | {moved(name): held for name, held in sources.items()}


_NAMES = ("create", "mkdir", "rename", "remove")


def crash_states(before: Disk, log: list[Op]) -> Iterator[tuple[str, Disk, str]]:
    """Every state a crash can leave: (what happened, the disk, what is left of unsynced contents)."""
    for count in range(len(log) + 1):
        yield from _kills(before, log, count)
        yield from _power_cuts(before, log[:count])


def _kills(before: Disk, log: list[Op], count: int) -> Iterator[tuple[str, Disk, str]]:
    done, following = log[:count], log[count] if count < len(log) else None
    yield f"killed after {count} operations", _replay(before, done), "all"
    if following and following.kind == "write":
        half = Op("write", following.path, data=following.data[: len(following.data) // 2])
        yield f"killed half way through operation {count + 1}", _replay(before, [*done, half]), "all"


def _power_cuts(before: Disk, done: list[Op]) -> Iterator[tuple[str, Disk, str]]:
    """Drop 0, 1, 2, … of the newest name changes that no fsync of their folder covers."""
    pending = [number for number, op in enumerate(done) if op.kind in _NAMES and not _is_synced(done, number)]
    for dropped in range(len(pending) + 1):
        lost = set(pending[len(pending) - dropped :])
        kept = [op for number, op in enumerate(done) if number not in lost]
        for unsynced in ("all", "half", "none"):
            name = (
                f"power cut after {len(done)} operations, {dropped} names lost, {unsynced} unsynced contents"
            )
            yield name, _replay(before, kept), unsynced


def _is_synced(done: list[Op], number: int) -> bool:
    folder = os.path.dirname(done[number].path)
    return any(op.kind == "fsync_dir" and op.path == folder for op in done[number:])


def _replay(before: Disk, ops: list[Op]) -> Disk:
    disk = Disk(set(before.folders), dict(before.files))
    for op in ops:
        disk.apply(op)
    return disk


def same(left: CheckpointState, right: CheckpointState) -> bool:
    """Whether two checkpoint states are equal in every bit of every tensor and in everything else."""
    return (
        (left.step, left.run_id, dict(left.aliases), dict(left.state))
        == (right.step, right.run_id, dict(right.aliases), dict(right.state))
        and list(left.tensors) == list(right.tensors)
        and all(_same_tensor(left.tensors[name], right.tensors[name]) for name in left.tensors)
    )


def _same_tensor(left: torch.Tensor, right: torch.Tensor) -> bool:
    raw = [tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in (left, right)]
    return left.dtype == right.dtype and left.shape == right.shape and raw[0] == raw[1]

"""Saving a checkpoint: every rank writes its files, then all agree that it exists, or that it does not.

A save has three parts. `prepare` and `finish` are agreements: every rank calls them at the same place. `write`
touches only this rank's files and never speaks to another rank, so it may run in a thread of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch

from bigbatch.errors import CheckpointError, DiskError, PeerFailed
from bigbatch.model.streams import split_shards
from bigbatch.parallel.single import SingleWorld
from bigbatch.protocols import World
from bigbatch.store.checkpoints import (
    OLD,
    CheckpointState,
    checkpoint_bytes,
    list_checkpoints,
    looks_complete,
    step_of,
)
from bigbatch.store.durable import (
    FILES,
    TEMPORARY,
    FileOps,
    disk_error,
    make_folders,
    remove_tree,
    set_aside,
    write_file,
)
from bigbatch.store.shards import SHARD_BYTES, dtype_name, write_shard
from bigbatch.store.slices import check_cover
from bigbatch.store.stored_index import FORMAT, FileEntry, Slice, TensorEntry, index_bytes

_RESERVED = ("step", "run_id")


def save_checkpoint(
    root: Path,
    state: CheckpointState,
    keep: int,
    *,
    world: World | None = None,
    protect: Collection[int] = (),
    shard_bytes: int = SHARD_BYTES,
    ops: FileOps = FILES,
) -> Path:
    """Write `root/step-<step>` so that a crash at any moment leaves the old state or the new one.

    Only when the new checkpoint is durable are others removed: older ones beyond `keep`, and those of later
    steps, which belong to a past that a resume has left.

    Args:
        root: the run's `checkpoints` folder; created when missing.
        state: what this rank saves.
        keep: complete checkpoints that stay, this one included; at least 1.
        world: the ranks, all of which call this; None is one process.
        protect: steps whose complete checkpoints stay too.
        shard_bytes: most bytes of tensors in one file.
        ops: the file operations.

    Raises:
        DiskError: some rank could not write; says which, with the bytes needed and free. Older ones are intact.
        PeerFailed: another rank is gone, or failed in another way.
    """
    saving = Saving(root, state, keep, world=world, protect=protect, shard_bytes=shard_bytes, ops=ops)
    saving.prepare()
    saving.write()
    return saving.finish()


class _Written(TypedDict):
    """What one rank's files hold."""

    files: dict[str, FileEntry]
    tensors: dict[str, TensorEntry]


class _Failure(TypedDict):
    """Why a rank could not do its part."""

    rank: int
    disk: bool
    message: str


class _Said(TypedDict):
    """What each rank tells the others."""

    facts: _Written
    failed: _Failure | None


class Saving:
    """One checkpoint on its way to the disk."""

    def __init__(
        self,
        root: Path,
        state: CheckpointState,
        keep: int,
        *,
        world: World | None = None,
        protect: Collection[int] = (),
        shard_bytes: int = SHARD_BYTES,
        ops: FileOps = FILES,
    ) -> None:
        """Take the arguments of `save_checkpoint`; nothing is written yet."""
        self.world: World = world or SingleWorld()
        self.state = state
        self.target = root / f"step-{state.step:06d}"
        self.bytes_needed = checkpoint_bytes(_local(state))
        self._temporary = root / (TEMPORARY + self.target.name)
        self._keep = max(1, keep)
        self._protect = frozenset(protect)
        self._shard_bytes = shard_bytes
        self._ops = ops
        self._facts: _Written = {"files": {}, "tensors": {}}
        self._error: BaseException | None = None

    def prepare(self) -> None:
        """Rank 0 makes the temporary folder; the others learn that it is there."""
        if self.world.rank == 0:
            self._attempt(self._make_room)
        self._agree()

    def write(self) -> None:
        """Write this rank's files. What goes wrong is kept for `finish`, where the others hear of it."""
        self._attempt(self._write_tensors)

    def finish(self) -> Path:
        """Publish what all ranks wrote, and prune; or remove it on all of them.

        Returns:
            The checkpoint's folder, durable.
        """
        everyone = self._agree()
        if self.world.rank == 0:
            self._attempt(lambda: self._complete([said["facts"] for said in everyone]))
        self._agree()
        return self.target

    # ------------------------------------------------------------ agreeing

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error

    def _agree(self) -> list[_Said]:
        """What every rank has done; raises on all of them when one could not do its part.

        An interrupt (KeyboardInterrupt) is no outcome to agree on: it leaves at once, as a killed rank would.
        """
        try:
            if self._error is not None and not isinstance(self._error, Exception):
                raise self._error
            everyone: list[_Said] = self.world.gather({"facts": self._facts, "failed": self._failure()})
            # Each rank raises in the same place, with the same words.
            failed = next((said["failed"] for said in everyone if said["failed"]), None)
            if failed is not None:
                self._raise(failed)
        except BaseException:
            if self.world.rank == 0:
                _remove_quietly(self._temporary, self._ops)
            raise
        return everyone

    def _failure(self) -> _Failure | None:
        error = self._error
        if error is None:
            return None
        disk = isinstance(error, (OSError, DiskError))
        if isinstance(error, OSError):
            error = disk_error(error, self.target, bytes_needed=self.bytes_needed)
        who = f"rank {self.world.rank} on {socket.gethostname()}: " if self.world.size > 1 else ""
        what = str(error) if disk else f"{type(error).__name__}: {error}"
        return {"rank": self.world.rank, "disk": disk, "message": who + what}

    def _raise(self, failed: _Failure) -> None:
        if failed["disk"]:
            raise DiskError(failed["message"]) from self._error
        if self._error is not None and failed["rank"] == self.world.rank:
            raise self._error
        raise PeerFailed(failed["message"])

    # ------------------------------------------------------------ the files

    def _make_room(self) -> None:
        root = self.target.parent
        make_folders(root, ops=self._ops)
        clean_checkpoints(root, ops=self._ops)
        self._ops.mkdir(self._temporary)

    def _write_tensors(self) -> None:
        """This rank's tensors, and what the index must say of them."""
        rank = f"r{self.world.rank:04d}-" if self.world.size > 1 else ""
        local = _local(self.state)
        files: dict[str, FileEntry] = {}
        tensors: dict[str, TensorEntry] = {}
        for number, names in enumerate(split_shards(local, self._shard_bytes), start=1):
            file = f"tensors-{rank}{number:05d}.safetensors"
            held = {name: local[name] for name in names}
            facts = write_shard(self._temporary / file, held, ops=self._ops)
            files[file] = {"bytes": facts.size_bytes, "header_sha256": facts.header_sha256}
            for name in names:
                tensors[name] = self._entry(name, local[name], file, facts.tensor_sha256[name])
        if self.world.size > 1:  # names of files must reach the disk from the machine that made them
            self._ops.fsync_dir(self._temporary)
        self._facts = {"files": files, "tensors": {name: tensors[name] for name in local}}

    def _entry(self, name: str, local: torch.Tensor, file: str, sha256: str) -> TensorEntry:
        part = self.state.pieces.get(name)
        shape = list(local.shape if part is None else part.shape)
        offset = [0] * len(shape) if part is None else list(part.offset)
        piece: Slice = {"file": file, "offset": offset, "shape": list(local.shape), "sha256": sha256}
        return {"dtype": dtype_name(local.dtype), "shape": shape, "slices": [piece]}

    def _complete(self, written: Sequence[_Written]) -> None:
        """state.json, then index.json: whoever has an index has all of it. Then its name, then pruning."""
        state, ops = self.state, self._ops
        tensors = _merged([each["tensors"] for each in written])
        _check(state, tensors)
        files = {file: facts for each in written for file, facts in each["files"].items()}
        position = {"step": state.step, "run_id": state.run_id, **state.state}
        text = json.dumps(position, indent=1, allow_nan=False).encode()
        write_file(self._temporary / "state.json", [text], ops=ops)
        files["state.json"] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        body = {
            "format": FORMAT,
            "step": state.step,
            "files": files,
            "aliases": dict(state.aliases),
            "tensors": tensors,
        }
        write_file(self._temporary / "index.json", [index_bytes(body)], ops=ops)
        ops.fsync_dir(self._temporary)
        _publish(self._temporary, self.target, ops)
        _prune(self.target.parent, state.step, self._keep, self._protect, ops)


def _local(state: CheckpointState) -> dict[str, torch.Tensor]:
    """Everything that this rank writes; parts that hold nothing are left to the ranks that hold something."""
    parts = {name: piece.local for name, piece in state.pieces.items() if piece.local.numel()}
    return {**state.tensors, **parts}


def _merged(parts: Sequence[Mapping[str, TensorEntry]]) -> dict[str, TensorEntry]:
    """One entry a tensor; by name when several ranks wrote, since none of them knows the order of all.

    Raises:
        CheckpointError: the ranks' slices of a tensor do not fit together.
    """
    if len(parts) == 1:
        merged = dict(parts[0])
    else:
        merged = {}
        for name in sorted({name for part in parts for name in part}):
            entries = [part[name] for part in parts if name in part]
            if any(each["dtype"] != entries[0]["dtype"] for each in entries) or any(
                each["shape"] != entries[0]["shape"] for each in entries
            ):
                raise CheckpointError(f"the ranks hold {name} in different types or shapes")
            merged[name] = {**entries[0], "slices": [each["slices"][0] for each in entries]}
    for name, entry in merged.items():
        regions = [(tuple(each["offset"]), tuple(each["shape"])) for each in entry["slices"]]
        check_cover(name, entry["shape"], regions)
    return merged


def clean_checkpoints(root: Path, *, ops: FileOps = FILES) -> list[str]:
    """Remove what a kill left behind: temporary folders, and a checkpoint that was being replaced.

    Returns:
        Names of what was removed, for the log.
    """
    removed: list[str] = []
    for path in sorted(root.glob(".*")) if root.is_dir() else []:
        original = root / path.name.removeprefix(OLD)
        if path.name.startswith(TEMPORARY):
            remove_tree(path, ops=ops)
            removed.append(path.name)
        elif path.name.startswith(OLD) and not original.exists():
            ops.rename(path, original)  # the kill came before the replacement had its name
            ops.fsync_dir(root)
        elif path.name.startswith(OLD):
            _discard(path, ops)
            removed.append(path.name)
    return removed


def _check(state: CheckpointState, held: Collection[str]) -> None:
    clash = [name for name in _RESERVED if name in state.state]
    assert not clash, f"state.json keeps {clash} for itself"
    loose = [name for name, stored in state.aliases.items() if stored not in held or name in held]
    assert not loose, f"aliases without exactly one stored tensor: {loose}"


def _publish(temporary: Path, target: Path, ops: FileOps) -> None:
    """Give the finished folder its name. One of the same step stands aside first, readable all the time."""
    if target.exists():
        ops.rename(target, target.with_name(OLD + target.name))
        ops.fsync_dir(target.parent)
    ops.rename(temporary, target)
    ops.fsync_dir(target.parent)


def _prune(root: Path, step: int, keep: int, protect: frozenset[int], ops: FileOps) -> None:
    """Remove what the checkpoint of `step`, now durable, makes superfluous."""
    others = [path for path in list_checkpoints(root) if step_of(path) != step]
    later = [path for path in others if step_of(path) > step]
    earlier = [path for path in others if step_of(path) < step]
    complete = [path for path in earlier if looks_complete(path)]
    stay = complete[len(complete) - (keep - 1) :] + [path for path in complete if step_of(path) in protect]
    for path in [*later, *(path for path in earlier if path not in stay), *root.glob(f"{OLD}*")]:
        _discard(path, ops)


def _discard(path: Path, ops: FileOps) -> None:
    """Take the name away durably before the contents: a half-removed checkpoint is never seen.

    One with a folder in it holds what no checkpoint does, and so what is not ours to remove: it is set aside.
    """
    if path.is_dir() and any(entry.is_dir() and not entry.is_symlink() for entry in path.iterdir()):
        set_aside(path, named=path.name.removeprefix(OLD), ops=ops)
        return
    doomed = path.with_name(f"{TEMPORARY}remove-{path.name}")
    ops.rename(path, doomed)
    ops.fsync_dir(path.parent)
    remove_tree(doomed, ops=ops)


def _remove_quietly(path: Path, ops: FileOps) -> None:
    with contextlib.suppress(OSError):
        if path.exists():
            remove_tree(path, ops=ops)

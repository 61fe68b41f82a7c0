"""Saving while training goes on: an update waits for a copy in memory, not for the disk."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from bigbatch.protocols import World
from bigbatch.store.checkpoints import CheckpointState
from bigbatch.store.durable import FILES, FileOps
from bigbatch.store.saving import Saving


class BackgroundSaver:
    """At most one checkpoint is on its way; what it holds is what the tensors were when `save` was called.

    The thread writes this rank's files and nothing else. Making the folder, agreeing and publishing happen where
    all ranks call `save`, `poll` or `flush`, so the order of collectives is the program's.
    """

    def __init__(self, world: World, *, room_bytes: int, ops: FileOps = FILES) -> None:
        """Serve one run.

        Args:
            world: the ranks; all of them make the same calls.
            room_bytes: memory that copies may take on this rank; a larger checkpoint is written at once.
            ops: the file operations.
        """
        self.world = world
        self.room_bytes = room_bytes
        self._ops = ops
        self._saving: Saving | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way; the same on every rank."""
        return self._saving is not None

    def save(self, root: Path, state: CheckpointState, keep: int, *, protect: Collection[int] = ()) -> Path:
        """Begin a checkpoint, once the one before it is durable.

        Args:
            root: folder of the checkpoints.
            state: all that is saved; copied, where there is room for a copy.
            keep: complete checkpoints that stay, this one included; at least 1.
            protect: updates whose checkpoints stay, too.

        Returns:
            Where it will be.

        Raises:
            DiskError: the one before, or this one's beginning, failed on some rank.
        """
        self.flush()
        saving = Saving(
            root, _copied(state, self.room_bytes), keep, world=self.world, protect=protect, ops=self._ops
        )
        saving.prepare()
        self._saving = saving
        if saving.state is state:
            saving.write()
        else:
            self._thread = threading.Thread(target=saving.write, name="bigbatch-checkpoint")
            self._thread.start()
        # A rank without room wrote at once; whether all have is asked at the next boundary.
        self.poll()
        return saving.target

    def poll(self) -> Path | None:
        """Publish the checkpoint if every rank has written its part; call it at each update boundary.

        Raises:
            DiskError: some rank could not write.
        """
        if self._saving is None:
            return None
        waiting = self._thread is not None and self._thread.is_alive()
        return None if any(self.world.gather(waiting)) else self.flush()

    def flush(self) -> Path | None:
        """Wait until the checkpoint on its way is durable.

        Returns:
            Its folder; None when none was on its way.

        Raises:
            DiskError: some rank could not write.
        """
        if self._saving is None:
            return None
        if self._thread is not None:
            self._thread.join()
        saving, self._saving, self._thread = self._saving, None, None
        return saving.finish()

    def close(self) -> None:
        """The run ends in an error: leave no thread behind, and agree with nobody who may be gone.

        One process alone makes its checkpoint durable. Of several ranks the one before it stays; the rest of this
        one goes with the next start.

        Raises:
            DiskError: one process alone could not write.
        """
        if self.world.size == 1:
            self.flush()
        elif self._thread is not None:
            self._thread.join()
            self._saving, self._thread = None, None


def _copied(state: CheckpointState, room_bytes: int) -> CheckpointState:
    """The state with copies of its tensors in main memory; the same object when they take too much room."""
    held = [*state.tensors.values(), *(piece.local for piece in state.pieces.values())]
    if sum(tensor.nbytes for tensor in held) > room_bytes:
        return state
    pieces = {name: replace(piece, local=_copy(piece.local)) for name, piece in state.pieces.items()}
    return replace(
        state, tensors={name: _copy(tensor) for name, tensor in state.tensors.items()}, pieces=pieces
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)

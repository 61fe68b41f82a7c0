from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from bigbatch.errors import DiskError
from bigbatch.parallel.single import SingleWorld
from bigbatch.store.background import BackgroundSaver
from bigbatch.store.checkpoints import CheckpointState, load_newest, read_checkpoint
from bigbatch.store.durable import FileOps
from bigbatch.store.slices import Piece
from tests.store.worlds import ThreadWorld, in_threads


class SlowDisk(FileOps):
    """Takes tensors only once it is allowed to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def write(self, handle, data):
        if "tensors-" in str(handle.name):
            assert self.go.wait(20)
        super().write(handle, data)


class FullDisk(FileOps):
    def write(self, handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def state(step: int, weight: torch.Tensor) -> CheckpointState:
    return CheckpointState(step=step, tensors={"model/w": weight}, state={"position": step}, run_id="r")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_what_is_saved_is_the_moment_of_the_call(tmp_path):
    disk, weight = SlowDisk(), torch.ones(4)
    saver = BackgroundSaver(SingleWorld(), room_bytes=2**20, ops=disk)
    target = saver.save(tmp_path, state(1, weight), 2)
    weight.mul_(7)  # training goes on
    assert saver.busy and saver.poll() is None and not target.exists()
    disk.go.set()
    assert saver.flush() == target and not saver.busy
    assert torch.equal(read_checkpoint(target).tensors["model/w"], torch.ones(4))


def test_without_room_for_a_copy_it_is_written_at_once(tmp_path):
    saver = BackgroundSaver(SingleWorld(), room_bytes=15)
    target = saver.save(tmp_path, state(1, torch.ones(4)), 2)
    assert target.exists() and not saver.busy


def test_at_most_one_is_on_its_way(tmp_path):
    disk = SlowDisk()
    saver = BackgroundSaver(SingleWorld(), room_bytes=2**20, ops=disk)
    saver.save(tmp_path, state(1, torch.ones(4)), 2)
    threading.Timer(0.2, disk.go.set).start()
    saver.save(tmp_path, state(2, torch.ones(4)), 2)  # waits for the first
    assert (tmp_path / "step-000001").exists()
    saver.flush()
    assert names(tmp_path) == ["step-000001", "step-000002"]


@pytest.mark.parametrize("then", ["save", "flush", "close"])
def test_what_went_wrong_surfaces_at_the_next_call_and_the_old_stays(tmp_path, then):
    first = BackgroundSaver(SingleWorld(), room_bytes=2**20)
    first.save(tmp_path, state(1, torch.ones(4)), 2)
    first.flush()
    saver = BackgroundSaver(SingleWorld(), room_bytes=2**20, ops=FullDisk())
    calls = {
        "save": lambda: saver.save(tmp_path, state(3, torch.ones(4)), 2),
        "flush": saver.flush,
        "close": saver.close,
    }

    def both() -> None:
        saver.save(tmp_path, state(2, torch.ones(4)), 2)  # may notice already, when the thread was quick
        calls[then]()

    with pytest.raises(DiskError, match=r"No space left on device .*needs"):
        both()
    assert names(tmp_path) == ["step-000001"]
    assert not saver.busy and saver.flush() is None


def test_ranks_publish_together_once_the_slowest_has_written(tmp_path):
    disks = [FileOps(), SlowDisk(), FileOps()]

    def work(world: ThreadWorld) -> list[bool]:
        part = torch.full((2,), float(world.rank))
        piece = Piece(shape=(6,), offset=(2 * world.rank,), local=part)
        # The last rank has no room for its copy and writes at once.
        saver = BackgroundSaver(world, room_bytes=0 if world.rank == 2 else 2**20, ops=disks[world.rank])
        saver.save(tmp_path, CheckpointState(step=1, tensors={}, pieces={"w": piece}, run_id="r"), 2)
        part.fill_(-1.0)
        seen = [saver.poll() is not None, (tmp_path / "step-000001").exists()]
        world.barrier()
        if world.rank == 1:
            disks[1].go.set()
        saver.flush()
        return [*seen, (tmp_path / "step-000001").exists()]

    assert in_threads(3, work) == [[False, False, True]] * 3
    found, _ = load_newest(tmp_path)
    assert found is not None and found.tensors["w"].tolist() == [0, 0, 1, 1, 2, 2]


def test_one_ranks_full_disk_reaches_all_at_the_same_boundary(tmp_path):
    def work(world: ThreadWorld) -> list[str]:
        ops = FullDisk() if world.rank == 1 else FileOps()
        saver = BackgroundSaver(world, room_bytes=2**20, ops=ops)
        piece = Piece(shape=(4,), offset=(2 * world.rank,), local=torch.ones(2))
        try:
            saver.save(tmp_path, CheckpointState(step=1, tensors={}, pieces={"w": piece}), 2)
            saver.flush()
        except DiskError as error:
            return [str(error)]
        return []

    first, second = in_threads(2, work)
    assert first == second and first[0].startswith("rank 1 on ")
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from bigbatch.parallel.single import SingleWorld
from bigbatch.store.background import BackgroundSaver
from bigbatch.store.checkpoints import CheckpointState
from bigbatch.store.durable import FileOps

class Kills(FileOps):
    def __init__(self): self.left = None
    def _count(self):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    def write(self, handle, data): self._count(); super().write(handle, data)
    def fsync(self, handle): self._count(); super().fsync(handle)
    def rename(self, source, target): self._count(); super().rename(source, target)

ops = Kills()
saver = BackgroundSaver(SingleWorld(), room_bytes=2**20, ops=ops)
for step in (1, 2):
    if step == 2:
        ops.left = int(sys.argv[2])
    saver.save(Path(sys.argv[1]), CheckpointState(step=step, tensors={"w": torch.full((5,), float(step))}), 2)
    saver.flush()
"""


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 7, 8])
def test_killed_while_the_thread_writes_the_one_before_is_found(tmp_path, nth):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(nth)], env=dict(os.environ), check=False
    )
    assert done.returncode == -signal.SIGKILL
    found, notes = load_newest(tmp_path)
    assert found is not None and notes == []
    assert (found.step, found.tensors["w"].tolist()) == (1, [1.0] * 5)

from __future__ import annotations

import errno
import json
import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bigbatch.errors import CheckpointError, DiskError, PeerFailed
from bigbatch.store.checkpoints import CheckpointState, load_newest, read_checkpoint, read_region
from bigbatch.store.durable import FileOps
from bigbatch.store.saving import save_checkpoint
from bigbatch.store.slices import Piece, dealt
from tests.store.crashes import same
from tests.store.worlds import Killed, ThreadWorld, in_threads

WHOLE = {
    "model/embed": torch.randn(11, 6, generator=torch.Generator().manual_seed(1)),
    "model/half": torch.randn(9, generator=torch.Generator().manual_seed(2)).bfloat16(),
    "model/mask": torch.arange(12).reshape(2, 3, 2) % 3 == 0,
    "model/none": torch.empty(0, 3),
    "exp_avg/embed": torch.randn(11, 6, generator=torch.Generator().manual_seed(3)).double(),
}
SCALAR = torch.tensor(7.0)


def cuts(count: int, parts: int, dice: random.Random) -> list[tuple[int, int]]:
    """`count` in `parts` uneven runs, some of them empty: (start, length)."""
    marks = [0, *sorted(dice.randint(0, count) for _ in range(parts - 1)), count]
    return [(begin, end - begin) for begin, end in pairwise(marks)]


def rows(tensor: torch.Tensor, size: int, dice: random.Random) -> list[Piece]:
    """Uneven shards of dimension 0."""
    shape = tuple(tensor.shape)
    rest = (0,) * (tensor.ndim - 1)
    return [
        Piece(shape=shape, offset=(start, *rest), local=tensor[start : start + count])
        for start, count in cuts(shape[0], size, dice)
    ]


def tiles(tensor: torch.Tensor, size: int, dice: random.Random) -> list[Piece]:
    """Tiles of a matrix on 2 x size / 2 ranks."""
    shape = tuple(tensor.shape)
    return [
        Piece(
            shape=shape,
            offset=(top, left, *(0,) * (len(shape) - 2)),
            local=tensor[top : top + high, left : left + wide],
        )
        for top, high in cuts(shape[0], 2, dice)
        for left, wide in cuts(shape[1], size // 2, dice)
    ]


def sharded(size: int, seed: int, step: int = 5) -> list[CheckpointState]:
    """What each rank holds of `WHOLE`; the scalar is rank 0's."""
    dice = random.Random(seed)
    of_ranks: list[dict[str, Piece]] = [{} for _ in range(size)]
    for name, tensor in WHOLE.items():
        cut = tiles if tensor.ndim > 1 and size % 2 == 0 and dice.random() < 0.5 else rows
        for rank, piece in enumerate(cut(tensor, size, dice)):
            of_ranks[rank][name] = piece
    # A tensor without elements has no owner among the parts: rank 0 writes it whole.
    return [
        CheckpointState(
            step=step,
            run_id="r",
            tensors={"step/embed": SCALAR, "model/none": WHOLE["model/none"]} if rank == 0 else {},
            pieces={name: piece for name, piece in pieces.items() if name != "model/none"},
            aliases={"model/head": "model/embed"},
            state={"position": 8 * step},
        )
        for rank, pieces in enumerate(of_ranks)
    ]


def expected(step: int = 5) -> CheckpointState:
    return CheckpointState(
        step=step,
        run_id="r",
        tensors=dict(sorted({**WHOLE, "step/embed": SCALAR}.items())),
        aliases={"model/head": "model/embed"},
        state={"position": 8 * step},
    )


def save_all(root: Path, states: list[CheckpointState], **given) -> list:
    return in_threads(
        len(states), lambda world: save_checkpoint(root, states[world.rank], keep=2, world=world, **given)
    )


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


# ---------------------------------------------------------------- any number writes, any number reads


@pytest.mark.parametrize("seed", range(12))
def test_written_by_four_in_uneven_parts_and_read_by_one_two_and_three_in_others(tmp_path, seed):
    assert save_all(tmp_path, sharded(4, seed)) == [tmp_path / "step-000005"] * 4
    assert same(read_checkpoint(tmp_path / "step-000005"), expected())
    for size in (1, 2, 3):
        wanted = sharded(size, seed + 100)

        def load(world: ThreadWorld, wanted=wanted) -> CheckpointState:
            pieces = wanted[world.rank].pieces

            def wanted_here(key, shape):
                piece = pieces.get(key)
                return None if piece is None else (piece.offset, tuple(piece.local.shape))

            found, notes = load_newest(tmp_path, run_id="r", world=world, wanted=wanted_here)
            assert found is not None and notes == []
            return found

        for rank, found in enumerate(in_threads(size, load)):
            assert isinstance(found, CheckpointState), found
            for name, piece in wanted[rank].pieces.items():
                assert torch.equal(found.tensors[name], piece.local), name
                assert found.tensors[name].dtype == piece.local.dtype


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tensors_that_all_hold_are_written_once(tmp_path, size):
    tensors = {f"model/{n}": torch.full((n + 1, 3), float(n)) for n in range(9)}
    states = [CheckpointState(step=1, tensors=dealt(tensors, rank, size), run_id="r") for rank in range(size)]
    assert sorted(name for state in states for name in state.tensors) == sorted(tensors)
    loads = [sum(tensor.nbytes for tensor in state.tensors.values()) for state in states]
    assert max(loads) - min(loads) <= max(tensor.nbytes for tensor in tensors.values())
    save_all(tmp_path, states)
    found, _ = load_newest(tmp_path)
    assert found is not None and found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_a_region_reads_only_the_slices_that_it_needs(tmp_path):
    whole = torch.arange(40.0).reshape(8, 5)
    save_all(
        tmp_path,
        [
            CheckpointState(
                step=1,
                tensors={},
                pieces={"w": Piece(shape=(8, 5), offset=(at, 0), local=whole[at : at + 4])},
            )
            for at in (0, 4)
        ],
    )
    path = tmp_path / "step-000001"
    (path / "tensors-r0001-00001.safetensors").unlink()
    assert torch.equal(read_region(path, "w", (1, 2), (3, 2)), whole[1:4, 2:4])
    with pytest.raises(CheckpointError, match=r"incomplete: tensors-r0001-00001.safetensors is missing"):
        read_region(path, "w", (3, 0), (2, 5))
    with pytest.raises(CheckpointError, match="no tensor v"):
        read_region(path, "v", (0,), (1,))


# ---------------------------------------------------------------- one rank's trouble is everybody's


class FullDisk(FileOps):
    """Full when a tensor's bytes come."""

    def write(self, handle, data):
        if "r0002" in handle.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(handle, data)


class KilledAtFsync(FileOps):
    def fsync(self, handle):
        if "r0002" in handle.name:
            raise Killed
        super().fsync(handle)


def test_one_ranks_full_disk_is_told_by_all_and_leaves_the_old(tmp_path):
    save_all(tmp_path, sharded(4, 0, step=4))
    errors = save_all(tmp_path, sharded(4, 0), ops=FullDisk())
    assert all(isinstance(error, DiskError) for error in errors)
    assert len({str(error) for error in errors}) == 1
    message = str(errors[0])
    assert message.startswith("rank 2 on ") and "No space left" in message and "needs" in message
    assert names(tmp_path) == ["step-000004"]
    assert same(read_checkpoint(tmp_path / "step-000004"), expected(4))


def test_a_rank_killed_while_it_writes_leaves_the_old(tmp_path):
    save_all(tmp_path, sharded(4, 0, step=4))
    found = save_all(tmp_path, sharded(4, 0), ops=KilledAtFsync())
    assert isinstance(found[2], Killed)
    assert all(isinstance(found[rank], PeerFailed) for rank in (0, 1, 3))
    assert names(tmp_path) == ["step-000004"]
    save_all(tmp_path, sharded(4, 1))
    assert same(read_checkpoint(tmp_path / "step-000005"), expected())


def test_a_leader_that_cannot_make_the_folder_tells_the_others(tmp_path):
    (tmp_path / "file").write_text("")
    errors = save_all(tmp_path / "file", sharded(2, 0))
    assert all(isinstance(error, DiskError) for error in errors)
    assert len({str(error) for error in errors}) == 1


def test_slices_that_do_not_fit_together_are_never_published(tmp_path):
    states = sharded(2, 3)
    twice = [states[0], CheckpointState(step=5, run_id="r", tensors={}, pieces=states[0].pieces)]
    errors = save_all(tmp_path, twice)
    assert isinstance(errors[0], CheckpointError) and isinstance(errors[1], PeerFailed)
    assert names(tmp_path) == []


# ---------------------------------------------------------------- damage


def truncate(path: Path) -> None:
    file = path / "tensors-r0001-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip(path: Path) -> None:
    file = path / "tensors-r0001-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 4
    file.write_bytes(data)


def lose(path: Path) -> None:
    (path / "tensors-r0001-00001.safetensors").unlink()


def other_index(path: Path) -> None:
    shutil.copy(path.with_name("step-000004") / "index.json", path / "index.json")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (truncate, "tensors-r0001-00001.safetensors has"),
        (flip, "tensors-r0001-00001.safetensors: the checksum of"),
        (lose, "incomplete: tensors-r0001-00001.safetensors is missing"),
        (other_index, "index.json is of step 4, the folder's name says 5"),
    ],
)
def test_all_fall_back_together_when_one_rank_finds_damage(tmp_path, harm, said):
    for step in (4, 5):
        save_all(tmp_path, sharded(2, 0, step=step))
    harm(tmp_path / "step-000005")
    index = json.loads((tmp_path / "step-000004" / "index.json").read_text())
    harmed = index["tensors"]["model/embed"]["slices"][1]

    def load(world: ThreadWorld):
        # Rank 0 wants nothing of the file that is damaged.
        def wanted(name, shape):
            return ((0,) * len(shape), shape) if world.rank or name == "step/embed" else None

        return load_newest(tmp_path, run_id="r", world=world, wanted=wanted)

    found = in_threads(2, load)
    assert harmed["file"] == "tensors-r0001-00001.safetensors"
    assert [state.step for state, _ in found] == [4, 4]
    assert found[0][1] == found[1][1]
    assert said in found[0][1][0]
    assert found[0][1][1] == "falling back to checkpoint step-000004: 1 update is lost and done again"

"""Checkpoints: complete and verified, or absent.

::

    checkpoints/
      step-000120/
        tensors-00001.safetensors   model and optimiser state, at most about 1 GiB a file;
                                    tensors-r0003-00001… is what rank 3 of several wrote
        state.json                  position, clocks, guard history, best metric, and whose run it is
        index.json                  logical name -> dtype, global shape, slices with checksums; sizes; aliases
      .tmp-…                        being written or removed; never read, gone after the next save or start
      .old-step-000120              stands aside while a checkpoint of the same step replaces it

Every byte of every file is under a checksum, index.json under its own. The newest complete checkpoint is
found by reading the folder, never through a pointer that could be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bigbatch.errors import CheckpointError
from bigbatch.model.streams import header_bytes
from bigbatch.parallel.single import SingleWorld
from bigbatch.protocols import World
from bigbatch.store.shards import Span, dtype_of, read_spans, read_tensor
from bigbatch.store.slices import Piece, Region, check_cover, overlap, within
from bigbatch.store.stored_index import Slice, TensorEntry, read_index, read_state

OLD = ".old-"
"""Prefix of a checkpoint that stands aside; readable."""
Wanted = Callable[[str, tuple[int, ...]], Region | None]
"""(name, whole shape) -> the region that is needed; None leaves the tensor out."""
_NAME = re.compile(r"(?:\.old-)?step-(\d+)")


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointState:
    """Everything that the rest of a run depends on, at an update boundary."""

    step: int
    """Updates done."""
    tensors: Mapping[str, torch.Tensor]
    """`model/<name>` and `<state>/<parameter name>` (`exp_avg/bert.…`); tied tensors once.

    To be written: the whole tensors that this rank writes. Read: those that it asked for.
    """
    pieces: Mapping[str, Piece] = field(default_factory=dict)
    """Tensors of which this rank writes a part; the other ranks have the rest."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Further names of tied tensors -> the name under which they are stored."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Position, clocks, guard history, best metric: strict JSON with text keys."""
    run_id: str = ""
    """The run that wrote it; `load_newest` refuses another one's."""


def checkpoint_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Disk space of one checkpoint, rounded up: tensors, headers and about 300 bytes of index a tensor."""
    contents = sum(tensor.nbytes for tensor in tensors.values())
    index = sum(len(name) + 300 for name in tensors)
    return contents + len(header_bytes(tensors)) + index + 2**16


# ---------------------------------------------------------------- reading


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders, complete or not, the oldest first."""
    found = [path for path in root.glob("step-*") if _NAME.fullmatch(path.name)] if root.is_dir() else []
    return sorted(found, key=step_of)


def load_newest(
    root: Path,
    *,
    run_id: str | None = None,
    world: World | None = None,
    wanted: Wanted | None = None,
) -> tuple[CheckpointState | None, list[str]]:
    """The newest checkpoint that is complete, with every checksum verified; the same one on every rank.

    Args:
        root: the run's `checkpoints` folder.
        run_id: whose checkpoints these must be; None takes anyone's.
        world: the ranks, all of which call this; rank 0 says what there is to choose from.
        wanted: what this rank needs; None: all of everything.

    Returns:
        The state, or None when no checkpoint is complete; and notes that name each one rejected, why, and how
        many updates are lost by falling back.

    Raises:
        CheckpointError: a complete checkpoint belongs to another run.
    """
    world = world or SingleWorld()
    candidates = [root / name for name in world.share(_candidates(root) if world.rank == 0 else None)]
    notes: list[str] = []
    for path in candidates:
        found, trouble = read_together(path, world, wanted)
        if found is None:
            notes.append(f"checkpoint {path.name} rejected: {trouble}")
            continue
        if run_id is not None and found.run_id != run_id:
            raise CheckpointError(
                f"{path} was written by another run ({found.run_id or 'unknown'}, this one is {run_id}): "
                "two runs were mixed in one folder; move it away, or set run.dir to a new folder"
            )
        lost = step_of(candidates[0]) - found.step
        if lost:
            notes.append(f"falling back to checkpoint {path.name}: {_updates(lost)} lost and done again")
        return found, notes
    if notes:
        notes.append(f"no complete checkpoint is left: {_updates(step_of(candidates[0]))} lost")
    return None, notes


def _candidates(root: Path) -> list[str]:
    """Names, the newest first; a checkpoint that stood aside comes after the one that replaces it."""
    found = [*list_checkpoints(root), *root.glob(f"{OLD}step-*")]
    found.sort(key=lambda path: (step_of(path), not path.name.startswith(OLD)), reverse=True)
    return [path.name for path in found]


def read_together(path: Path, world: World, wanted: Wanted | None) -> tuple[CheckpointState | None, str]:
    """What this rank wants of a checkpoint, or the first trouble that any rank had with it: all have it, or none.

    Args:
        path: folder of the checkpoint.
        world: all ranks call it.
        wanted: which parts of which tensors this rank needs; None: all.

    Returns:
        The state and an empty text; or None, and the trouble.
    """
    found, trouble = None, None
    try:
        found = read_checkpoint(path, wanted)
    except CheckpointError as error:
        trouble = str(error)
    everyone = world.gather(trouble)
    first = next(((rank, said) for rank, said in enumerate(everyone) if said is not None), None)
    if first is None:
        return found, ""
    rank, said = first
    return None, said if all(each == said for each in everyone) else f"{said} (seen by rank {rank})"


def read_checkpoint(path: Path, wanted: Wanted | None = None) -> CheckpointState:
    """Read one checkpoint and verify all that is read: every byte, unless only parts are wanted.

    Raises:
        CheckpointError: incomplete or damaged; names the file.
    """
    stored = StoredCheckpoint(path)
    stored.check_files()
    if wanted is None:
        tensors = {name: stored.tensor(name) for name in stored.shapes}
    else:
        asked = {name: wanted(name, shape) for name, shape in stored.shapes.items()}
        tensors = {name: stored.region(name, *region) for name, region in asked.items() if region is not None}
    state = dict(stored.state)
    return CheckpointState(
        step=state.pop("step"),
        run_id=state.pop("run_id"),
        tensors=tensors,
        aliases=stored.aliases,
        state=state,
    )


def read_region(path: Path, name: str, offset: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """One region of one tensor; only slices that overlap it are read, each verified as a whole.

    Args:
        path: folder of the checkpoint.
        name: of the tensor.
        offset: first index of the region, a number a dimension.
        shape: of the region.

    Raises:
        CheckpointError: incomplete or damaged; names the file.
    """
    return StoredCheckpoint(path).region(name, offset, shape)


def verify(path: Path) -> None:
    """Check every byte of one checkpoint without keeping its tensors.

    Raises:
        CheckpointError: incomplete or damaged; names the file.
    """
    stored = StoredCheckpoint(path)
    stored.check_files()
    assert stored.state is not None  # read, and so checked
    for name in stored.shapes:
        stored.tensor(name)


class StoredCheckpoint:
    """One checkpoint on the disk, read a region at a time, whoever wrote it and however it was cut."""

    def __init__(self, path: Path) -> None:
        """Read its index.

        Raises:
            CheckpointError: without an index, or with a damaged one.
        """
        self.path = path
        self._index = read_index(path, step_of(path))
        self._spans: dict[str, dict[str, Span]] = {}

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """What state.json holds, `step` and `run_id` included."""
        return read_state(self.path, self._index)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names of tied tensors -> the stored name."""
        return self._index["aliases"]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Logical name -> global shape."""
        return {name: tuple(entry["shape"]) for name, entry in self._index["tensors"].items()}

    def dtype(self, name: str) -> torch.dtype:
        """Of one tensor."""
        return dtype_of(self._index["tensors"][name]["dtype"])

    def check_files(self) -> None:
        """Look at the size and header of every file of tensors.

        Raises:
            CheckpointError: missing, of another size, or its header was changed; names the file.
        """
        for file in self._index["files"]:
            if file != "state.json":
                self._spans_of(file)

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        shape = self.shapes[name]
        return self.region(name, (0,) * len(shape), shape)

    def region(self, name: str, offset: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
        """A part of a tensor, from the slices that overlap it; each of them is read and verified whole.

        Args:
            name: of the tensor.
            offset: first index of the region, a number a dimension.
            shape: of the region.

        Raises:
            CheckpointError: not in this checkpoint, incomplete or damaged; names the file.
        """
        entry = self._index["tensors"].get(name)
        if entry is None:
            raise CheckpointError(f"the checkpoint has no tensor {name}")
        slices = entry["slices"]
        regions: list[Region] = [(tuple(each["offset"]), tuple(each["shape"])) for each in slices]
        check_cover(name, entry["shape"], regions)
        want: Region = (tuple(offset), tuple(shape))
        if regions == [want]:
            return self._slice(name, entry, slices[0])
        result = torch.empty(want[1], dtype=dtype_of(entry["dtype"]))
        for each, held in zip(slices, regions, strict=True):
            common = overlap(held, want)
            if common is not None:
                result[within(common, want)] = self._slice(name, entry, each)[within(common, held)]
        return result

    def _slice(self, name: str, entry: TensorEntry, piece: Slice) -> torch.Tensor:
        span = self._spans_of(piece["file"]).get(name)
        if span is None or span.dtype != dtype_of(entry["dtype"]) or list(span.shape) != piece["shape"]:
            raise CheckpointError(f"{piece['file']} does not hold {name} as index.json describes it")
        return read_tensor(self.path / piece["file"], name, span, piece["sha256"])

    def _spans_of(self, file: str) -> Mapping[str, Span]:
        if file not in self._spans:
            facts = self._index["files"].get(file)
            if facts is None or "header_sha256" not in facts:
                raise CheckpointError(f"index.json does not list {file}")
            found = read_spans(
                self.path / file, size_bytes=facts["bytes"], header_sha256=facts["header_sha256"]
            )
            self._spans[file] = found
        return self._spans[file]


def looks_complete(path: Path) -> bool:
    """Whether all files are there with the right sizes: enough to count, without reading gigabytes."""
    try:
        files = read_index(path, step_of(path))["files"]
        return all((path / file).stat().st_size == facts["bytes"] for file, facts in files.items())
    except (CheckpointError, OSError):
        return False


def step_of(path: Path) -> int:
    """Updates done, from a checkpoint's name; -1 for other names."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _updates(count: int) -> str:
    return "1 update is" if count == 1 else f"{count} updates are"

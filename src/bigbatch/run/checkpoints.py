"""Checkpoints: complete and verified, or absent.

::

    checkpoints/
      step-000120/
        tensors-00001.safetensors   model and optimiser state, at most about 1 GiB a file
        state.json                  position, clocks, guard history, best metric, and whose run it is
        index.json                  logical name -> dtype, global shape, slices with checksums; sizes; aliases
      .tmp-…                        being written or removed; never read, gone after the next save or start
      .old-step-000120              stands aside while a checkpoint of the same step replaces it

Every byte of every file is under a checksum, index.json under its own. The newest complete checkpoint is
found by reading the folder, never through a pointer that could be wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bigbatch.errors import CheckpointError
from bigbatch.run.durable import (
    FILES,
    TEMPORARY,
    FileOps,
    disk_error,
    make_folders,
    remove_tree,
    write_file,
)
from bigbatch.run.shards import (
    SHARD_BYTES,
    Span,
    assemble,
    dtype_name,
    dtype_of,
    header_bytes,
    read_spans,
    read_tensor,
    split_shards,
    write_shard,
)

FORMAT = 1
_NAME = re.compile(r"(?:\.old-)?step-(\d+)")
_OLD = ".old-"
_RESERVED = ("step", "run_id")


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointState:
    """Everything that the rest of a run depends on, at an update boundary."""

    step: int
    """Updates done."""
    tensors: Mapping[str, torch.Tensor]
    """`model/<name>` and `<state>/<parameter name>` (`exp_avg/bert.…`); tied tensors once."""
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


# ---------------------------------------------------------------- writing


def save_checkpoint(
    root: Path,
    state: CheckpointState,
    keep: int,
    *,
    protect: Collection[int] = (),
    shard_bytes: int = SHARD_BYTES,
    ops: FileOps = FILES,
) -> Path:
    """Write `root/step-<step>` so that a crash at any moment leaves the old state or the new one.

    Only when the new checkpoint is durable are others removed: older ones beyond `keep`, and those of later
    steps, which belong to a past that a resume has left.

    Args:
        root: the run's `checkpoints` folder; created when missing.
        state: what to save.
        keep: complete checkpoints that stay, this one included; at least 1.
        shard_bytes: most bytes of tensors in one file.
        ops: the file operations.

    Raises:
        DiskError: could not be written; names the bytes needed and free. Older checkpoints are intact.
    """
    target = root / f"step-{state.step:06d}"
    temporary = root / (TEMPORARY + target.name)
    make_folders(root, ops=ops)
    try:
        clean_checkpoints(root, ops=ops)
        ops.mkdir(temporary)
        _write_files(temporary, state, shard_bytes, ops)
        ops.fsync_dir(temporary)
        _publish(temporary, target, ops)
        _prune(root, state.step, max(1, keep), frozenset(protect), ops)
    except OSError as error:
        _remove_quietly(temporary, ops)
        raise disk_error(error, target, bytes_needed=checkpoint_bytes(state.tensors)) from error
    except BaseException:
        _remove_quietly(temporary, ops)
        raise
    return target


def clean_checkpoints(root: Path, *, ops: FileOps = FILES) -> list[str]:
    """Remove what a kill left behind: temporary folders, and a checkpoint that was being replaced.

    Returns:
        Names of what was removed, for the log.
    """
    removed: list[str] = []
    for path in sorted(root.glob(".*")) if root.is_dir() else []:
        original = root / path.name.removeprefix(_OLD)
        if path.name.startswith(TEMPORARY):
            remove_tree(path, ops=ops)
            removed.append(path.name)
        elif path.name.startswith(_OLD) and not original.exists():
            ops.rename(path, original)  # the kill came before the replacement had its name
            ops.fsync_dir(root)
        elif path.name.startswith(_OLD):
            _discard(path, ops)
            removed.append(path.name)
    return removed


def _write_files(folder: Path, state: CheckpointState, shard_bytes: int, ops: FileOps) -> None:
    """Tensors, then state.json, then index.json: whoever has an index has all of it."""
    _check(state)
    files: dict[str, dict[str, Any]] = {}
    tensors: dict[str, dict[str, Any]] = {}
    for number, names in enumerate(split_shards(state.tensors, shard_bytes), start=1):
        file = f"tensors-{number:05d}.safetensors"
        facts = write_shard(folder / file, {name: state.tensors[name] for name in names}, ops=ops)
        files[file] = {"bytes": facts.size_bytes, "header_sha256": facts.header_sha256}
        for name in names:
            tensors[name] = _entry(state.tensors[name], file, facts.tensor_sha256[name])
    position = {"step": state.step, "run_id": state.run_id, **state.state}
    text = json.dumps(position, indent=1, allow_nan=False).encode()
    write_file(folder / "state.json", [text], ops=ops)
    files["state.json"] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    body = {
        "format": FORMAT,
        "step": state.step,
        "files": files,
        "aliases": dict(state.aliases),
        "tensors": {name: tensors[name] for name in state.tensors},
    }
    write_file(folder / "index.json", [_index_bytes(body)], ops=ops)


def _check(state: CheckpointState) -> None:
    clash = [name for name in _RESERVED if name in state.state]
    assert not clash, f"state.json keeps {clash} for itself"
    held = state.tensors
    loose = [name for name, stored in state.aliases.items() if stored not in held or name in held]
    assert not loose, f"aliases without exactly one stored tensor: {loose}"


def _entry(tensor: torch.Tensor, file: str, sha256: str) -> dict[str, Any]:
    """One process holds the whole tensor: one slice, which starts at index 0 of every dimension."""
    shape = list(tensor.shape)
    piece = {"file": file, "offset": [0] * len(shape), "shape": shape, "sha256": sha256}
    return {"dtype": dtype_name(tensor.dtype), "shape": shape, "slices": [piece]}


def _index_bytes(body: Mapping[str, Any]) -> bytes:
    """The one spelling of an index, its own checksum included: a reader compares byte for byte."""
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def _publish(temporary: Path, target: Path, ops: FileOps) -> None:
    """Give the finished folder its name. One of the same step stands aside first, readable all the time."""
    if target.exists():
        ops.rename(target, target.with_name(_OLD + target.name))
        ops.fsync_dir(target.parent)
    ops.rename(temporary, target)
    ops.fsync_dir(target.parent)


def _prune(root: Path, step: int, keep: int, protect: frozenset[int], ops: FileOps) -> None:
    """Remove what the checkpoint of `step`, now durable, makes superfluous."""
    others = [path for path in list_checkpoints(root) if _step(path) != step]
    later = [path for path in others if _step(path) > step]
    earlier = [path for path in others if _step(path) < step]
    complete = [path for path in earlier if _looks_complete(path)]
    stay = complete[len(complete) - (keep - 1) :] + [path for path in complete if _step(path) in protect]
    for path in [*later, *(path for path in earlier if path not in stay), *root.glob(f"{_OLD}*")]:
        _discard(path, ops)


def _discard(path: Path, ops: FileOps) -> None:
    """Take the name away durably before the contents: a half-removed checkpoint is never seen."""
    doomed = path.with_name(f"{TEMPORARY}remove-{path.name}")
    ops.rename(path, doomed)
    ops.fsync_dir(path.parent)
    remove_tree(doomed, ops=ops)


def _remove_quietly(path: Path, ops: FileOps) -> None:
    with contextlib.suppress(OSError):
        if path.exists():
            remove_tree(path, ops=ops)


# ---------------------------------------------------------------- reading


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders, complete or not, the oldest first."""
    found = [path for path in root.glob("step-*") if _NAME.fullmatch(path.name)] if root.is_dir() else []
    return sorted(found, key=_step)


def load_newest(root: Path, *, run_id: str | None = None) -> tuple[CheckpointState | None, list[str]]:
    """The newest checkpoint that is complete, with every checksum verified.

    Args:
        root: the run's `checkpoints` folder.
        run_id: whose checkpoints these must be; None takes anyone's.

    Returns:
        The state, or None when no checkpoint is complete; and notes that name each one rejected, why, and how
        many updates are lost by falling back.

    Raises:
        CheckpointError: a complete checkpoint belongs to another run.
    """
    candidates = [*list_checkpoints(root), *root.glob(f"{_OLD}step-*")]
    # A checkpoint that stood aside comes after the one that replaces it.
    candidates.sort(key=lambda path: (_step(path), not path.name.startswith(_OLD)), reverse=True)
    notes: list[str] = []
    for path in candidates:
        try:
            found = read_checkpoint(path)
        except CheckpointError as error:
            notes.append(f"checkpoint {path.name} rejected: {error}")
            continue
        if run_id is not None and found.run_id != run_id:
            raise CheckpointError(
                f"{path} was written by another run ({found.run_id or 'unknown'}, this one is {run_id}): "
                "two runs were mixed in one folder; move it away, or set run.dir to a new folder"
            )
        lost = _step(candidates[0]) - found.step
        if lost:
            notes.append(f"falling back to checkpoint {path.name}: {_updates(lost)} lost and done again")
        return found, notes
    if notes:
        notes.append(f"no complete checkpoint is left: {_updates(_step(candidates[0]))} lost")
    return None, notes


def read_checkpoint(path: Path) -> CheckpointState:
    """Read one checkpoint and verify all of it.

    Raises:
        CheckpointError: incomplete or damaged; names the file.
    """
    index = _read_index(path)
    state = json.loads(_read_state(path, index))
    step, run_id = state.pop("step"), state.pop("run_id")
    return CheckpointState(
        step=step, run_id=run_id, tensors=dict(_tensors(path, index)), aliases=index["aliases"], state=state
    )


def verify(path: Path) -> None:
    """Check every byte of one checkpoint without keeping its tensors.

    Raises:
        CheckpointError: incomplete or damaged; names the file.
    """
    index = _read_index(path)
    _read_state(path, index)
    for _ in _tensors(path, index):
        pass


def _read_index(path: Path) -> dict[str, Any]:
    try:
        data = (path / "index.json").read_bytes()
        index = json.loads(data)
        body = {key: value for key, value in index.items() if key != "sha256"}
    except FileNotFoundError:
        raise CheckpointError("incomplete: index.json is missing") from None
    except OSError as error:
        raise CheckpointError(f"index.json cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError):
        raise CheckpointError("index.json is damaged") from None
    if _index_bytes(body) != data:
        raise CheckpointError("index.json is damaged: its checksum does not match")
    if index["format"] != FORMAT:
        raise CheckpointError(f"index.json has format {index['format']}; this version reads {FORMAT}")
    if index["step"] != _step(path):
        raise CheckpointError(f"index.json is of step {index['step']}, the folder's name says {_step(path)}")
    strange = [name for name in index["files"] if Path(name).name != name]
    if strange:
        raise CheckpointError(f"index.json points outside its folder: {strange[0]!r}")
    return index


def _read_state(path: Path, index: Mapping[str, Any]) -> bytes:
    try:
        data = (path / "state.json").read_bytes()
    except FileNotFoundError:
        raise CheckpointError("incomplete: state.json is missing") from None
    except OSError as error:
        raise CheckpointError(f"state.json cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != index["files"]["state.json"]["sha256"]:
        raise CheckpointError("state.json is damaged: its checksum does not match")
    return data


def _tensors(path: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    spans = {
        file: read_spans(path / file, size_bytes=facts["bytes"], header_sha256=facts["header_sha256"])
        for file, facts in index["files"].items()
        if file != "state.json"
    }
    for name, entry in index["tensors"].items():
        yield name, assemble(entry["shape"], list(_pieces(path, name, entry, spans)))


def _pieces(
    path: Path, name: str, entry: Mapping[str, Any], spans: Mapping[str, Mapping[str, Span]]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    for piece in entry["slices"]:
        span = spans.get(piece["file"], {}).get(name)
        if span is None or span.dtype != dtype_of(entry["dtype"]) or list(span.shape) != piece["shape"]:
            raise CheckpointError(f"{piece['file']} does not hold {name} as index.json describes it")
        yield piece["offset"], read_tensor(path / piece["file"], name, span, piece["sha256"])


def _looks_complete(path: Path) -> bool:
    """Whether all files are there with the right sizes: enough to count, without reading gigabytes."""
    try:
        files = _read_index(path)["files"]
        return all((path / file).stat().st_size == facts["bytes"] for file, facts in files.items())
    except (CheckpointError, OSError):
        return False


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _updates(count: int) -> str:
    return "1 update is" if count == 1 else f"{count} updates are"

"""index.json and state.json of a checkpoint, read without trust: a checksum shows damage, not who wrote it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from bigbatch.documents import Amount, Count, Figure, Name, checked
from bigbatch.errors import CheckpointError
from bigbatch.store.progress import Progress
from bigbatch.stored import Damaged, json_value, read_bytes

FORMAT = 1
_INDEX_BYTES = 2**28
_STATE_BYTES = 2**26
_Shape = list[Annotated[int, Field(ge=0, lt=2**48)]]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_File = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}$")]
"""A name inside the checkpoint's own folder."""


class FileEntry(TypedDict):
    """One file of a checkpoint."""

    bytes: Count
    sha256: NotRequired[_Hash]
    header_sha256: NotRequired[_Hash]


class Slice(TypedDict):
    """A part of a tensor, in one file."""

    file: _File
    offset: _Shape
    shape: _Shape
    sha256: _Hash


class TensorEntry(TypedDict):
    """One tensor, whoever wrote it."""

    dtype: str
    shape: _Shape
    slices: Annotated[list[Slice], Field(min_length=1)]


class _StateEntry(TypedDict):
    bytes: Count
    sha256: _Hash


_Files = TypedDict("_Files", {"state.json": _StateEntry})


class Index(TypedDict):
    """index.json."""

    format: int
    step: Count
    files: dict[_File, FileEntry]
    aliases: dict[str, str]
    tensors: dict[str, TensorEntry]


class _Best(TypedDict):
    metric: Name
    value: float
    step: Count


class _Progress(TypedDict, total=False):
    """As `store.progress.Progress`, which may have grown since."""

    update: Count
    position: Count
    tokens: Count
    evaluations: Count
    stale_evaluations: Count
    stop_best: float | None
    target_reached: bool
    best: _Best | None
    figures: dict[str, dict[str, Figure]]
    train_seconds: Amount
    evaluate_seconds: Amount
    evaluated_samples: Count
    computed_tokens: Amount
    evaluation_due: bool
    evaluated_update: Count | None
    journal_records: Count
    peak_memory_bytes: Count
    batch_stage: Count
    batch_votes: Count
    noise: dict[str, object]
    cool_down: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    warm_again: Count | None
    stale_plateau: Count
    stopped: str | None


class _Finite(TypedDict):
    step: Count
    loss: float
    grad_norm: float


class _Guard(TypedDict):
    skipped_in_a_row: list[Count]
    skipped_updates: Count
    last_finite: _Finite | None


class State(TypedDict):
    """What of state.json is asked before a run goes on; the rest is `check_run_state`'s."""

    step: Count
    run_id: str


class _RunState(TypedDict):
    digest: NotRequired[str]
    progress: _Progress
    guard: _Guard
    loss_scale: NotRequired[dict[str, float]]
    sync: NotRequired[dict[str, object]]


def index_bytes(body: Mapping[str, object]) -> bytes:
    """The one spelling of an index, its own checksum included: a reader compares byte for byte."""
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def read_index(path: Path, step: int) -> Index:
    """The index of a checkpoint folder.

    Args:
        path: the folder.
        step: of its name.

    Raises:
        CheckpointError: missing, damaged, of another step or version, or it says what no checkpoint has.
    """
    data = _content(path, "index.json", _INDEX_BYTES)
    try:
        said = json_value(data)
        if not isinstance(said, dict):
            raise Damaged("holds no object")
        if index_bytes({key: value for key, value in said.items() if key != "sha256"}) != data:
            raise Damaged("is damaged: its checksum does not match")
        if said.get("format") != FORMAT:
            raise Damaged(f"has format {said.get('format')}; this version reads {FORMAT}")
        _inside(said)
        index = checked(said, Index)
        checked(index["files"], _Files)
        _fits(index)
    except Damaged as error:
        raise CheckpointError(f"index.json {error}") from None
    if index["step"] != step:
        raise CheckpointError(f"index.json is of step {index['step']}, the folder's name says {step}")
    return index


def _inside(index: Mapping[str, object]) -> None:
    files = index.get("files")
    strange = [name for name in files if Path(name).name != name] if isinstance(files, dict) else []
    if strange:
        raise Damaged(f"points outside its folder: {strange[0][:100]!r}")


def _fits(index: Index) -> None:
    """No tensor is larger than all files together, so that no number of an index becomes an allocation."""
    bytes_there = sum(entry["bytes"] for entry in index["files"].values())
    for name, entry in index["tensors"].items():
        dimensions = {len(shape) for each in entry["slices"] for shape in (each["offset"], each["shape"])}
        if dimensions != {len(entry["shape"])}:
            raise Damaged(f"has slices of {name[:100]!r} with other dimensions than {entry['shape']}")
        if math.prod(entry["shape"]) > bytes_there:
            raise Damaged(
                f"says that {name[:100]!r} has {math.prod(entry['shape']):,} elements: more than its files"
            )


def read_state(path: Path, index: Index) -> State:
    """What state.json of a checkpoint folder says.

    Raises:
        CheckpointError: missing, damaged, or it says what no run writes.
    """
    data = _content(path, "state.json", _STATE_BYTES)
    if hashlib.sha256(data).hexdigest() != index["files"]["state.json"].get("sha256"):
        raise CheckpointError("state.json is damaged: its checksum does not match")
    try:
        found = checked(json_value(data), State)
        if found["step"] != index["step"]:
            raise Damaged(f"is of step {found['step']}, index.json of {index['step']}")
    except Damaged as error:
        raise CheckpointError(f"state.json {error}") from None
    return found


def check_run_state(state: Mapping[str, Any]) -> None:
    """Refuse a state.json that a run cannot go on from.

    Raises:
        CheckpointError: names the first key.
    """
    try:
        checked(dict(state), _RunState)
        known = {each.name for each in fields(Progress) if each.init}
        unknown = sorted(set(state["progress"]) - known)
        if unknown:
            raise Damaged(f"has a progress.{unknown[0][:100]} that this version does not know")
    except Damaged as error:
        raise CheckpointError(f"state.json {error}") from None


def _content(path: Path, name: str, most_bytes: int) -> bytes:
    with whole(name):
        return read_bytes(path / name, most_bytes=most_bytes)


@contextmanager
def whole(name: str) -> Iterator[None]:
    """A file of a checkpoint that is missing or damaged is a CheckpointError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"incomplete: {name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}") from error
    except Damaged as error:
        raise CheckpointError(f"{name} {error}") from None

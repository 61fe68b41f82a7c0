"""The run directory: where each file is, what state the run is in, and whether it can be written at all."""

from __future__ import annotations

import contextlib
import platform
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path

import bigbatch
from bigbatch.documents import State, readable
from bigbatch.errors import DiskError
from bigbatch.facts import HardwareFacts
from bigbatch.records import utc_now
from bigbatch.store.durable import (
    FILES,
    TEMPORARY,
    FileOps,
    atomic_write_json,
    disk_error,
    free_bytes,
    make_folders,
    nearest_folder,
    remove_tree,
    space,
    write_file,
)
from bigbatch.written import beside

_LEFT_BEHIND = (f"{TEMPORARY}*", f"derived/{TEMPORARY}*", ".model.new-*", ".model.old-*", ".report.html.*")
"""Temporary names of this room, of `model.export` and of the report."""
_PACKAGES = ("bigbatch", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic")


@dataclass(frozen=True, kw_only=True)
class Status:
    """Contents of status.json."""

    state: State
    update: int
    """Updates done."""
    host: str
    job_id: str | None
    """The scheduler's job number, when there is one."""
    updated_at: str
    """UTC, ISO 8601."""


class RunDirectory:
    """Paths of a run, and the small files that only state facts.

    Example:
        >>> RunDirectory(Path("runs/tweets")).metrics.as_posix()
        'runs/tweets/metrics.jsonl'
    """

    def __init__(
        self, path: Path, *, ops: FileOps = FILES, job_id: str | None = None, writes: bool = True
    ) -> None:
        # A user may name it by a link; below it none is followed.
        self.path = path = path.resolve() if path.is_symlink() else path
        self.writes = writes  # False: another process owns it; the methods below then do nothing
        self.ops = ops
        self.job_id = job_id  # the scheduler's, for status.json
        self.identity = path / "identity.json"  # what is computed; the first file, see identity.py
        self.recipe = path / "recipe.yaml"  # resolved, every default spelled out
        self.code = path / "code"  # copies of the user's own files
        self.plan = path / "plan.json"  # choices with reasons and predictions
        self.audit = path / "audit.json"  # what the number format does to each block; of low-precision runs
        self.environment = path / "environment.json"  # versions, hardware, threads
        self.status = path / "status.json"  # see `Status`
        self.metrics = path / "metrics.jsonl"  # one record a line
        self.checkpoints = path / "checkpoints"  # `step-000120` folders
        self.derived = path / "derived"  # columns that the first weights computed; see columns.py
        self.model = path / "model"  # best weights, Hugging Face format
        self.result = path / "result.json"  # final numbers
        self.baseline = path / "baseline.json"  # what simple models of the same rows reach
        self.evaluation = path / "evaluation.json"  # confusion matrices and examples
        self.graph = path / "graph.json"  # what one micro-batch computes
        self.samples = path / "samples"  # prompts that evaluations continued
        self.report = path / "report.html"  # one offline page
        self.stages = path / "stages.json"  # of several stages: their names, and their folders in `stages`
        self.logs = path / "logs"  # output of each rank

    def create(self) -> None:
        """Create the directory and its missing parents.

        Raises:
            DiskError: it cannot be created.
        """
        if self.writes:
            make_folders(self.path, ops=self.ops)

    def clean(self) -> list[str]:
        """Remove temporary files that a kill left; only while holding the lock. Returns their names."""
        if not self.writes:
            return []
        left = sorted(path for name in _LEFT_BEHIND for path in self.path.glob(name))
        for path in left:
            remove_tree(path, ops=self.ops)
        return [path.name for path in left]

    def refuse_links(self) -> None:
        """A link in the place of one of the run's own files or folders leads to what is somebody else's.

        Writing would refuse or replace it; but reading it would show, and copy, what it leads to.

        Raises:
            DiskError: naming it.
        """
        own = [path for path in vars(self).values() if isinstance(path, Path) and path.parent == self.path]
        below = [
            entry
            for path in (self.checkpoints, self.code, self.derived, self.logs, self.samples)
            for entry in path.glob("*")
        ]
        lost = self.path.glob("metrics.lost-*")
        for path in (*own, *lost, self.path / "lock.json", self.path / ".lock-guard", *below):
            if path.is_symlink():
                raise DiskError(
                    f"{path} is a link: no file of a run is read or written through one; remove it, or name the "
                    "folder where the files are (run.dir)"
                )

    def remove_unused(self) -> None:
        """Remove the directory if no run ever began in it: a start that failed leaves nothing behind."""
        if not self.writes:
            return
        with contextlib.suppress(OSError):  # it was never made, or another process starts there
            if all(path.name == ".lock-guard" for path in self.path.iterdir()):
                self.ops.remove(self.path / ".lock-guard")
                self.ops.remove(self.path)

    def preflight(self, bytes_needed: int) -> None:
        """Refuse a directory that cannot be written, or a disk that is too small, before anything is written.

        Writability is tried with an empty file, removed at once: permission bits say nothing about read-only
        mounts, and everything to root.

        Args:
            bytes_needed: what the run will hold at most; what an interrupted one holds already needs no room.

        Raises:
            DiskError: with the bytes needed and free.
        """
        if not self.writes:
            return
        folder = nearest_folder(self.path).resolve()
        probe = beside(folder / "preflight")
        try:
            write_file(probe, (), ops=self.ops)
            self.ops.remove(probe)
        except OSError as error:
            raise disk_error(error, self.path, bytes_needed=bytes_needed) from error
        free = free_bytes(folder)
        bytes_needed = max(0, bytes_needed - self._held_bytes())
        if free < bytes_needed:
            raise DiskError(
                f"the disk of {self.path} is too small: the run {space(bytes_needed, free)}; "
                "make room, lower run.keep, or set run.dir to another disk"
            )

    def _held_bytes(self) -> int:
        """Size of the checkpoints and the model that are there."""
        files = [path for folder in (self.checkpoints, self.model) for path in folder.rglob("*")]
        return sum(path.stat().st_size for path in files if path.is_file())

    def write_json(self, path: Path, value: object) -> None:
        """Replace one of the JSON files durably: `directory.write_json(directory.plan, …)`."""
        if self.writes:
            atomic_write_json(path, value, ops=self.ops)

    def write_status(self, state: State, update: int) -> None:
        """Replace status.json durably."""
        now = Status(
            state=state, update=update, host=socket.gethostname(), job_id=self.job_id, updated_at=utc_now()
        )
        self.write_json(self.status, asdict(now))

    def read_status(self) -> Status | None:
        """The status, or None when there is none that can be read."""
        found = readable(self.status)
        return None if found is None else Status(**{each.name: found[each.name] for each in fields(Status)})


def environment_facts(
    hardware: HardwareFacts, data_fingerprint: str | Mapping[str, str] | None
) -> dict[str, object]:
    """Contents of environment.json: versions, hardware, threads, data. Nothing is read from the environment.

    Args:
        hardware: the machine as measured.
        data_fingerprint: hash of the data, or one for each split.
    """
    return {
        "versions": environment_versions(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "byte_order": sys.byteorder,
        "host": socket.gethostname(),
        "hardware": asdict(hardware),
        "data_fingerprint": dict(data_fingerprint)
        if isinstance(data_fingerprint, Mapping)
        else data_fingerprint,
    }


def environment_versions() -> dict[str, str | None]:
    """Python, and the installed version of each package that numbers can depend on; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return {**found, "bigbatch": bigbatch.__version__}

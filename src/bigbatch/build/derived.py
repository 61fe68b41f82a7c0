"""Columns that the model which a run starts from, or a guide, computes once, before update 1 (`Task.needs`), and keeps.

Each rank runs its part of the samples through the model, in eval mode, and has all numbers then. Rank 0 writes them
down; whoever goes on with the run reads them back: computed elsewhere they might have other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bigbatch.build.parts import Parts
from bigbatch.build.ready import Data
from bigbatch.data.packs import end_of_group
from bigbatch.errors import CheckpointError, DoesNotFit
from bigbatch.infer.embed import guide_folder, guided
from bigbatch.infer.forwards import FEWEST_TOKENS, run_forward
from bigbatch.infer.load import open_model
from bigbatch.parallel.agree import OutOfMemory, by_leader
from bigbatch.protocols import World
from bigbatch.samples import UNITS, Table
from bigbatch.store.columns import read_column, write_column
from bigbatch.store.identity import note_derived, read_identity
from bigbatch.stored import Damaged
from bigbatch.tasks.base import Task
from bigbatch.tasks.derived import Derived, Guide, sums_of, with_columns

ROWS = 2048
"""That are seen at a time: as many as are sorted by length together."""


@dataclass(frozen=True)
class Kept:
    """Where the columns of a run are."""

    run: Path
    """Its directory; only rank 0 looks."""
    run_id: str
    say: Callable[[str], None] = lambda text: None
    progress: Callable[[str, int, int], None] | None = None

    @property
    def folder(self) -> Path:
        """Of the columns."""
        return self.run / "derived"


def derived(parts: Parts, kept: Kept) -> Data:
    """The rows of a run with all derived columns; the model still has the weights that it starts from.

    Raises:
        CheckpointError: a column that was computed once is torn, altered or lost.
        DoesNotFit: the model does not fit the memory.
    """
    needs, task, tables = parts.task.needs, parts.task, dict(parts.tables)
    if not needs:
        return parts.data
    counts, digests = {}, {}
    for name, table in tables.items():
        counts[name], digests[name] = _about(_pieces(table, task, name))
    for need in needs:
        numbers = _read(need, parts.strategy.world, kept, counts, digests)
        if numbers is None:
            numbers = (
                {name: _computed(need, parts, name, kept, len(counts[name])) for name in tables}
                if need.guide is None
                else _guided(need.guide, parts, kept)
            )
            _write(need, parts.strategy.world, kept, numbers, digests)
        for name, table in tables.items():
            tables[name] = with_columns(table, {need.name: np.repeat(numbers[name], counts[name], axis=0)})
    return replace(parts.data, tables=tables, batches=parts.batches.over(tables["train"]))


def _pieces(table: Table, task: Task, name: str) -> Iterator[Table]:
    """What evaluations see of a split, some rows at a time; all but `train` are seen so already."""
    first = 0
    while first < len(table):
        end = end_of_group(table, min(first + ROWS, len(table)))
        piece = table.take(np.arange(first, end, dtype=np.int64)).load()
        yield task.fixed(piece) if name == "train" else piece
        first = end


def _about(pieces: Iterator[Table]) -> tuple[np.ndarray, str]:
    """Units of each sample (S,) int64, and a hash of tokens and targets."""
    counts: list[np.ndarray] = []
    found = hashlib.sha256()
    for piece in pieces:
        counts.append(piece[UNITS].lengths)
        for part in (piece.ids, piece.token_offsets, piece.reads, piece.unit_offsets):
            found.update(np.ascontiguousarray(part, "<i8").tobytes())
    return np.concatenate(counts), found.hexdigest()


def _guided(guide: Guide, parts: Parts, kept: Kept) -> dict[str, np.ndarray]:
    """Split -> (S, E) float32, on every rank; the guide is gone then."""
    device = str(next(parts.module.parameters()).device)
    loaded = open_model(guide_folder(parts.recipe.resolve_path(guide.folder)), device=device)
    found = {}
    for name in parts.tables:
        rows = parts.data.rows[name]
        kept.say(f"guide: the texts of {len(rows):,} rows of {name} through {guide.folder}")

        def tell(what: str, done: int, total: int, name: str = name) -> None:
            if kept.progress is not None:
                kept.progress(f"guide: {what} of {name}", done, total)

        found[name] = guided(loaded, guide, rows, tell, parts.strategy.world)
    return found


def _computed(need: Derived, parts: Parts, name: str, kept: Kept, samples: int) -> np.ndarray:
    """(S,) float64 of a split, on every rank."""
    table, micro_tokens = parts.tables[name], parts.evaluation_micro_tokens
    kept.say(f"{need.name}: {samples:,} samples of {name} through the model as it starts")
    found: list[np.ndarray] = []
    done = 0
    for piece in _pieces(table, parts.task, name):
        while True:
            try:
                values_U1 = run_forward(
                    parts.forward,
                    piece,
                    micro_tokens=micro_tokens,
                    packing=parts.packing,
                    keep=need.compute,
                    world=parts.strategy.world,
                )
                break
            except OutOfMemory as error:
                if micro_tokens // 2 < FEWEST_TOKENS:
                    raise DoesNotFit(
                        f"{need.name}: out of memory with {micro_tokens} tokens at a time"
                    ) from error
                micro_tokens //= 2
        found.append(sums_of(values_U1[:, 0], piece))
        done += len(piece)
        if kept.progress is not None:
            kept.progress(f"{need.name} of {name}", done, samples)
    return np.concatenate(found)


def _read(
    need: Derived, world: World, kept: Kept, counts: Mapping[str, np.ndarray], digests: Mapping[str, str]
) -> dict[str, np.ndarray] | None:
    """What is there already, on every rank; None: it has yet to be computed."""
    read: list[np.ndarray] = []

    def look() -> bool:
        identity = read_identity(kept.run)
        checksum = None if identity is None else identity.derived.get(need.name)
        try:
            found, known = read_column(
                kept.folder, need.name, of=digests, run_id=kept.run_id, checksum=checksum
            )
        except (OSError, Damaged) as error:
            if checksum is None:  # nothing was trained by it: update 1 comes after identity.json knows it
                return False
            header = kept.folder / f"{need.name}.json"
            why = f"{header} {error}" if isinstance(error, Damaged) else f"{error.filename}: {error.strerror}"
            raise CheckpointError(
                f"{why}; the run was trained by the numbers that it began with, and they "
                "cannot be computed again here: restore the files of this folder, or start the run anew in another "
                "directory (run.dir)"
            ) from error
        if checksum is None:  # killed in between
            note_derived(kept.run, need.name, known)
        column = np.concatenate([found[name] for name in digests])
        read.append(column.reshape(len(column), -1))
        kept.say(f"{need.name}: as computed before update 1")
        return True

    if not by_leader(world, look, bool, bool):
        return None
    mine = read[0] if read else np.empty((0, 1))
    [everything, *_] = world.gather_rows(mine) if world.size > 1 else [mine]
    ends = np.cumsum([len(counts[name]) for name in digests])[:-1]
    return dict(
        zip(digests, np.split(everything[:, 0] if need.guide is None else everything, ends), strict=True)
    )


def _write(
    need: Derived,
    world: World,
    kept: Kept,
    numbers: Mapping[str, np.ndarray],
    digests: Mapping[str, str],
) -> None:
    """The numbers are durable, then known to identity.json; only then an update may follow."""

    def write() -> bool:
        checksum = write_column(kept.folder, need.name, numbers, of=digests, run_id=kept.run_id)
        note_derived(kept.run, need.name, checksum)
        return True

    by_leader(world, write, bool, bool)

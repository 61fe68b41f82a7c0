"""A table whose columns lie in shards of a stream: lengths are here, entries come when they are asked for.

Everything else sees an ordinary `Table`: `take` copies nothing, `load` gathers, so batches, denominators and the order
are those of the same tokens in one piece, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bigbatch.data.published import MOST_INDEX_BYTES, Index, columns_of, read_index
from bigbatch.data.shelf import Shelf
from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import COUNT
from bigbatch.errors import DataError, Problem, UsageError
from bigbatch.remote.addresses import is_address, shown
from bigbatch.remote.exact import Wanted, one_file
from bigbatch.remote.keep import Say, cache_root
from bigbatch.samples import UNITS, Prepare, Stream, Table, offsets_of
from bigbatch.stored import Damaged


def stream_rows(place: str, base: Path, say: Say | None) -> DataTable:
    """The split that an index stands for: its number of samples, and no rows.

    Args:
        place: of the index, as typed.
        base: that relative paths start from.
        say: told what is fetched.

    Raises:
        DataError: it cannot be used.
        MachineError: it cannot be reached.
    """
    if is_address(place):
        wanted = Wanted(most_bytes=MOST_INDEX_BYTES, say=say or (lambda text: None))
        path, full = one_file(place, cache_root(), wanted), place
    else:
        path = base / Path(place).expanduser()
        full = str(path)
    index = read_index(full, shown(place), path)
    return DataTable(
        rows=pa.table({"streamed": pa.nulls(index.samples)}),
        origin=((shown(place), 0),),
        tokenised=index.known["tokenised"],
        digest=index.digest,
        stream=index,
    )


@dataclass(frozen=True, eq=False)
class ShardColumn:
    """A column over all shards, read by entries (`column[at_E]`), as an array is."""

    shelf: Shelf
    name: str
    firsts: np.ndarray
    """(shards + 1,) int64 first entry of each shard."""
    dtype: np.dtype
    tail: tuple[int, ...]
    """Shape of an entry."""

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, …)."""
        return (len(self), *self.tail)

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        at_E = np.arange(*at.indices(len(self))) if isinstance(at, slice) else np.asarray(at)
        found = np.empty((len(at_E), *self.tail), self.dtype)
        shards_E = np.searchsorted(self.firsts, at_E, side="right") - 1
        for shard in np.unique(shards_E).tolist():
            mine = shards_E == shard
            found[mine] = self.shelf.columns(shard)[self.name][at_E[mine] - self.firsts[shard]]
        return found

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise UsageError(
            f"this needs {self.name} of all samples at once, and they are streamed; read the rows themselves "
            "(data.train: the files), or leave it out"
        )


def shelf_of(table: Table) -> Shelf | None:
    """The shelf of a table that is streamed; None: it is not."""
    column = next(iter(table.streams[UNITS].columns.values()), None)
    return column.shelf if isinstance(column, ShardColumn) else None


def read_lengths(index: Index, path: Path) -> Mapping[str, np.ndarray]:
    """Stream -> entries of each sample (N,) int64.

    Args:
        index: says how many samples there are.
        path: of the file of lengths.

    Raises:
        DataError: it is another file.
    """
    try:
        found = columns_of(path)
        counts = {name.partition(".")[0]: each for name, each in found.items() if name.endswith(f".{COUNT}")}
        streams = {name.partition(".")[0] for name in index.known["columns"]} | {UNITS}
        if counts.keys() != streams:
            raise Damaged(f"it has lengths of {', '.join(sorted(counts)) or 'nothing'}")
        for each in counts.values():
            if each.shape != (index.samples,) or each.dtype.kind not in "iu" or each.min(initial=0) < 0:
                raise Damaged(f"it does not tell of {index.samples:,} samples")
            if float(each.sum(dtype=np.float64)) >= 2**53:
                raise Damaged("its lengths are no lengths")
    except (OSError, Damaged) as error:
        raise DataError([Problem(where=path.name, what=f"cannot be used: {error}")]) from None
    return {name: each.astype(np.int64) for name, each in counts.items()}


def streamed_table(
    shelf: Shelf, lengths: Mapping[str, np.ndarray], sequences: Mapping[str, int], prepare: Prepare | None
) -> Table:
    """A split that is streamed, with `sources` where each shard begins.

    Args:
        shelf: has the shards.
        lengths: stream -> entries of each sample (N,) int64.
        sequences: the task's (`Task.sequences`).
        prepare: the task's (`Task.prepare`).
    """
    index = shelf.index
    firsts_N = offsets_of(np.asarray(index.sizes, np.int64))
    streams = {}
    for stream, counts in lengths.items():
        offsets = offsets_of(counts)
        columns = {
            name.partition(".")[2]: ShardColumn(
                shelf, name, offsets[firsts_N], np.dtype(about["dtype"]), tuple(about["shape"])
            )
            for name, about in index.known["columns"].items()
            if name.partition(".")[0] == stream
        }
        # An array in all that is asked of it: length, dtype, and entries by their numbers.
        streams[stream] = Stream(columns=columns, offsets=offsets, positions=sequences.get(stream, 0))  # type: ignore[arg-type]
    return Table(
        streams=streams,
        truncated_samples=index.known["truncated_samples"],
        sources=tuple(firsts_N[:-1].tolist()),
        prepare=prepare,
    )


def entries_of(lengths: Mapping[str, np.ndarray], index: Index) -> list[dict[str, int]]:
    """Of each shard: stream -> how many entries it has."""
    firsts_N = offsets_of(np.asarray(index.sizes, np.int64))
    sums = {name: np.diff(offsets_of(counts)[firsts_N]).tolist() for name, counts in lengths.items()}
    return [{name: sums[name][shard] for name in sums} for shard in range(len(index.sizes))]


def most_bytes_at_once(index: Index, batch_samples: int) -> int:
    """What the copies of one update's shards can take at most, whatever the order: two windows, and as many of the
    smallest shards as a batch can go through whole, all of them the largest ones.

    Args:
        index: of the stream.
        batch_samples: of an update.
    """
    from bigbatch.data.shards import WINDOW_SHARDS

    through = int(np.searchsorted(np.cumsum(np.sort(index.sizes)), batch_samples, side="right"))
    sizes = sorted((shard["bytes"] for shard in index.shards), reverse=True)
    return sum(sizes[: 2 * WINDOW_SHARDS + through])

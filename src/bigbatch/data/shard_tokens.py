"""Tokens of a split in shards: an entry of the cache for each shard, and one of all, as training counts them.

A kill loses the shard that was being tokenised; a new shard is the only one that is. Memory holds one shard at a time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from bigbatch.data import cache
from bigbatch.data.mixture import joined
from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import COUNT, Encoder, Progress, cache_key, read_entry, token_table
from bigbatch.errors import Problem, RecipeError
from bigbatch.protocols import Tokenizer
from bigbatch.samples import Table

_log = logging.getLogger(__name__)
_AT_A_TIME = 1 << 20
"""Entries that are copied at a time."""


class Arranger(Encoder, Protocol):
    """What is asked here of a task."""

    def arrange(self, table: Table) -> Table:
        """The samples that training counts, of tokenised rows."""
        ...


def shard_table(
    rows: DataTable,
    *,
    task: Arranger,
    tokenizer: Tokenizer | None,
    cache_dir: Path | None,
    key_parts: Mapping[str, object],
    tokenizer_digest: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = _log.warning,
) -> tuple[Table, bool]:
    """Tokenise a split shard by shard, or read it from the cache; arranged, with `sources` where each shard begins.

    Args:
        rows: of all shards (`DataTable.digests`).
        task: as `token_table` has it; arranges each shard by itself.
        tokenizer: as `token_table` has it.
        cache_dir: where entries are kept; None keeps everything in memory.
        key_parts: as `token_table` has it, and what decides how the task arranges rows.
        tokenizer_digest: as `token_table` has it.
        progress: (rows done, rows).
        say: told when a damaged entry is made anew.

    Returns:
        The tokenised split, and whether it was there already.

    Raises:
        DataError: a row cannot be used.
        RecipeError: samples of this task belong together, which shards do not know.
        DiskError: the disk filled up.
    """
    encoded = partial(
        token_table,
        task=task,
        tokenizer=tokenizer,
        cache_dir=cache_dir,
        key_parts=key_parts,
        tokenizer_digest=tokenizer_digest,
        say=say,
    )

    def arranged() -> Iterator[Table]:
        done = 0
        for shard in map(rows.shard, range(len(rows.sources))):
            told = None if progress is None else _told(progress, done, len(rows))
            table, _ = encoded(shard, progress=told)
            done += len(shard)
            piece = task.arrange(table) if len(shard) else table
            if piece.groups is not None:
                what = (
                    "shards with a task whose samples belong together (pairs, lists) is not built; use full"
                )
                raise RecipeError([Problem(where="recipe", key="data.shuffle", what=what)])
            if progress is not None:
                progress(done, len(rows))
            yield piece

    of_all = {**key_parts, "shards": list(rows.digests)}
    key = cache_key(rows, task, tokenizer, of_all, tokenizer_digest)
    if cache_dir is None or key is None:
        return joined([piece for piece in arranged() if len(piece)]), False
    with contextlib.suppress(FileNotFoundError):
        try:
            return _read(cache_dir / key, task), True
        except cache.Damaged as damage:
            say(f"token cache {cache_dir / key}: {damage}; joining its shards again")
    with cache.Writer(cache_dir, key) as writer:
        _join(writer, arranged())
    return _read(cache_dir / key, task), False


def _told(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _join(writer: cache.Writer, pieces: Iterator[Table]) -> None:
    """All columns of all pieces, one behind the other."""
    sources: list[int] = []
    samples = truncated_samples = 0
    for piece in pieces:
        sources.append(samples)
        samples += len(piece)
        truncated_samples += piece.truncated_samples
        for name, stream in piece.streams.items() if len(piece) else ():
            stream = stream.load()
            _append(writer, f"{name}.{COUNT}", np.diff(stream.offsets))
            for column, values in stream.columns.items():
                _append(writer, f"{name}.{column}", values)
    writer.publish({"truncated_samples": truncated_samples, "sources": sources})


def _append(writer: cache.Writer, name: str, values: np.ndarray) -> None:
    writer.append(name, values[:0])
    for first in range(0, len(values), _AT_A_TIME):
        writer.append(name, values[first : first + _AT_A_TIME])


def _read(folder: Path, task: Arranger) -> Table:
    table, facts = read_entry(folder, task)
    found = facts.get("sources")
    firsts = [each for each in found if type(each) is int] if isinstance(found, list) else []
    if not firsts or firsts[0] != 0 or sorted(firsts) != firsts or firsts[-1] > len(table):
        raise cache.Damaged("where its shards begin makes no sense")
    return Table(
        streams=table.streams,
        truncated_samples=table.truncated_samples,
        sources=tuple(firsts),
        prepare=table.prepare,
    )

"""DataTable -> Table: rows through the task's encode, kept in the token cache.

The cache holds everything that encode returns (tokens, units, whatever further streams), so a second start
reads memory-mapped files and never calls the tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bigbatch.data import cache
from bigbatch.data.tables import DataTable
from bigbatch.errors import DataError, Problem
from bigbatch.files.problems import data_error, one_error, placed
from bigbatch.protocols import Row, Tokenizer
from bigbatch.samples import EXTRA, ONE_TOKEN, TOKENS, UNITS, Prepare, Sample, Stream, Table, offsets_of

Progress = Callable[[int, int], None]
"""`progress(done_rows, total_rows)`."""

_CHUNK_ROWS = 1000
COUNT = "count"
"""Name of the column that says how many entries each sample has in a stream."""


class Encoder(Protocol):
    """What is asked here of a task (`tasks.base.Task`)."""

    @property
    def longest(self) -> int | None: ...

    @property
    def sequences(self) -> Mapping[str, int]:
        """Stream that runs through the blocks -> positions that an entry of it takes."""
        ...

    @property
    def prepare(self) -> Prepare | None: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """What the user chose of it: encode may read any of that. What the run fills in comes with `key_parts`."""
        ...

    @property
    def written_in(self) -> type: ...

    def encode_batch(self, rows: Sequence[Row], tokenizer: Tokenizer | None) -> list[Sample]: ...


_log = logging.getLogger(__name__)


def token_table(
    table: DataTable,
    *,
    task: Encoder,
    tokenizer: Tokenizer | None,
    cache_dir: Path | None,
    key_parts: Mapping[str, Any],
    tokenizer_digest: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = _log.warning,
) -> tuple[Table, bool]:
    """Tokenise a split, or read it from the cache.

    Args:
        table: rows with a column per role, or rows of token ids.
        task: its `encode_batch` is called, since fast tokenizers use all cores then.
        tokenizer: a Hugging Face tokenizer; unused for rows of token ids.
        cache_dir: where entries are kept; None keeps everything in memory.
        key_parts: what else decides the result: the task's options, labels, max_length, … (JSON-like).
        tokenizer_digest: its `tokenizer_fingerprint`, where the caller has several splits.
        progress: called after every chunk of rows.
        say: told when a damaged entry is rebuilt or the cache cannot be written.

    Returns:
        The tokenised split, and whether it came from the cache.

    Raises:
        DataError: a row of token ids cannot be used, or the task's samples do not fit together.
        DiskError: the disk filled up.
    """
    key = None if cache_dir is None else cache_key(table, task, tokenizer, key_parts, tokenizer_digest)
    if cache_dir is None or key is None:
        return _assemble(
            _in_memory(_chunks(table, task, tokenizer, progress)), task.sequences, task.prepare
        ), False
    folder = cache_dir / key
    with contextlib.suppress(FileNotFoundError):
        try:
            return read_entry(folder, task)[0], True
        except cache.Damaged as damage:
            say(f"token cache {folder}: {damage}; tokenising again")
    try:
        writer = cache.Writer(cache_dir, key)
    except OSError as error:
        say(f"token cache {cache_dir} cannot be written ({error}); the tokens are kept in memory")
        return _assemble(
            _in_memory(_chunks(table, task, tokenizer, progress)), task.sequences, task.prepare
        ), False
    with writer:
        facts = {"truncated_samples": 0}
        for columns, truncated in _chunks(table, task, tokenizer, progress):
            facts["truncated_samples"] += truncated
            for name, rows in columns.items():
                writer.append(name, rows)
        return _assemble((writer.publish(facts), facts), task.sequences, task.prepare), False


def read_entry(folder: Path, task: Encoder) -> tuple[Table, Mapping[str, object]]:
    """What an entry of the cache holds, and its facts.

    Raises:
        FileNotFoundError: there is none.
        cache.Damaged: it is torn, altered, or does not fit together.
    """
    arrays, facts = _consistent(*cache.read(folder), task.sequences)
    return _assemble((arrays, facts), task.sequences, task.prepare), facts


def as_table(
    samples: Sequence[Sample], sequences: Mapping[str, int] = ONE_TOKEN, prepare: Prepare | None = None
) -> Table:
    """Samples, at least one, as a tokenised split in memory.

    Args:
        samples: alike in their streams.
        sequences: the task's (`Task.sequences`).
        prepare: the task's (`Task.prepare`).
    """
    facts = {"truncated_samples": sum(sample.truncated for sample in samples)}
    return _assemble((_columns(samples, sequences), facts), sequences, prepare)


def cache_key(
    table: DataTable,
    task: Encoder,
    tokenizer: Tokenizer | None,
    key_parts: Mapping[str, Any],
    tokenizer_digest: str | None = None,
) -> str | None:
    """Hash of all that decides what encode returns: data, tokenizer, the task's options and its code.

    None when the task's code cannot be read (a class typed in a notebook): then nothing may be reused.

    Args:
        table: the rows.
        task: encodes them.
        tokenizer: None where rows are token ids.
        key_parts: what else decides, as JSON.
        tokenizer_digest: hash of the tokenizer's files, where it is known already.
    """
    code = _code_of(task.written_in)
    if code is None:
        return None
    parts = {
        "format": cache.FORMAT,
        "data": table.content_digest,
        "tokenizer": None if table.tokenised else tokenizer_digest or tokenizer_fingerprint(tokenizer),
        "task": code,
        "options": dict(task.options),
        "parts": dict(key_parts),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=as_json).encode()).hexdigest()[:40]


def as_json(value: Any) -> Any:
    """Arrays in full: their text leaves out the middle."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 (hex) of the whole tokenizer, or of class, vocabulary and special tokens when it has no one file.

    Truncation and padding are left out: calling a fast tokenizer changes them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        whole = json.loads(backend.to_str())
        content = {name: part for name, part in whole.items() if name not in ("truncation", "padding")}
    else:
        vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else repr(tokenizer)
        content = {"class": type(tokenizer).__qualname__, "vocabulary": vocabulary}
    special = getattr(tokenizer, "special_tokens_map", None)
    sides = [getattr(tokenizer, name, None) for name in _SETTINGS]
    template = getattr(tokenizer, "chat_template", None)
    parts = [content, special, sides, *([] if template is None else [template])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


_SETTINGS = ("truncation_side", "add_bos_token", "add_eos_token", "src_lang", "tgt_lang")
"""Of a tokenizer, beside its file: the languages that texts to read and texts to write are marked with, too."""


def _code_of(kind: type) -> list[str] | None:
    """Names and source hashes of a task's class and its bases, so that editing encode is noticed.

    A class of bigbatch stands for its whole room, whose other files encode calls.
    """
    found = []
    for base in kind.__mro__:
        if base.__module__ in ("builtins", "abc", "typing"):
            continue
        try:
            file = Path(inspect.getfile(base))
            files = sorted(file.parent.glob("*.py")) if base.__module__.startswith("bigbatch.") else [file]
            digest = hashlib.sha256(b"".join(part.read_bytes() for part in files)).hexdigest()
        except (OSError, TypeError):
            return None
        found.append(f"{base.__module__}.{base.__qualname__} {digest}")
    return found


def _chunks(
    table: DataTable, task: Encoder, tokenizer: Tokenizer | None, progress: Progress | None
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Columns of some rows each, and how many of these rows were truncated."""
    # The Rust tokenizers turn their threads off after a fork unless told; a choice of the user's stands.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    done, layout = 0, ""
    yield {_column(name, COUNT): np.empty(0, np.int64) for name in (*task.sequences, UNITS)}, 0
    for rows in table.iterate(_CHUNK_ROWS):
        samples = _encode(table, done, rows, task, tokenizer)
        layout = _check(table, done, samples, task, layout)
        done += len(rows)
        yield _columns(samples, task.sequences), sum(sample.truncated for sample in samples)
        if progress is not None:
            progress(done, len(table))


def _encode(
    table: DataTable, first: int, rows: list[dict[str, Any]], task: Encoder, tokenizer: Tokenizer | None
) -> list[Sample]:
    """Call the task, which may be the user's own code; what it raises says at which row that was.

    Raises:
        DataError: all rows of these that the task refuses.
    """
    try:
        return task.encode_batch(rows, tokenizer)
    except Exception as error:
        refused: list[Problem] = []
        for number, row in enumerate(rows, start=first):
            try:
                task.encode_batch([row], tokenizer)
            except DataError as alone:
                refused += placed(alone, table.where(number))
            except Exception as alone:
                alone.add_note(f"while encoding {table.where(number)}")
                raise alone from None
        if refused:
            raise data_error(refused) from None
        error.add_note(f"while encoding {table.where(first)} and the {len(rows)} rows from it")
        raise


def _check(table: DataTable, first: int, samples: list[Sample], task: Encoder, layout: str) -> str:
    """Refuse samples that do not fit together; returns what those of this table look like, "" before the first."""
    limit = task.longest if table.tokenised else None
    kind: tuple[object, ...] | None = None
    for number, sample in enumerate(samples, start=first):
        values, units = sample.values, len(sample.reads)
        # Put into words only where it changes: rows are many.
        found_kind = (
            sample.segments is None,
            values.dtype,
            values.shape[1:],
            *sample.extras,
            *_shapes(sample),
        )
        if found_kind != kind:
            kind, found = found_kind, _layout_of(sample)
            layout = layout or found
            if found != layout:
                what = f"the task's encode gave {found}, but {layout} in the rows before"
                raise one_error(table.where(number), "", what)
        if (
            len(values) != units
            or len(sample.weights) != units
            or any(len(rows) != units for rows in sample.extras.values())
        ):
            what = "the task's encode gave arrays of unequal numbers of units"
            raise one_error(table.where(number), "", what)
        for name, stream in sample.streams.items():
            if len({len(column) for column in stream.values()}) != 1:
                what = f"the task's encode gave columns of unequal lengths in the stream {name!r}"
                raise one_error(table.where(number), "", what)
        for name in task.sequences:
            if not len(
                sample.ids if name == TOKENS else next(iter(sample.streams.get(name, _NOTHING).values()))
            ):
                what = f"the task's encode gave no {name}"
                raise one_error(table.where(number), "", what)
        if limit is not None and len(sample.ids) > limit:
            raise one_error(
                table.where(number),
                "input_ids",
                f"{len(sample.ids)} tokens, but max_length is {limit}; token ids are not cut here",
            )
    return layout


_NOTHING: Mapping[str, np.ndarray] = {"": np.empty(0)}


def _shapes(sample: Sample) -> list[tuple[object, ...]]:
    """Of the columns of a sample's further streams: name, dtype, and shape of an entry."""
    return [
        (name, column, values.dtype, values.shape[1:])
        for name, stream in sample.streams.items()
        for column, values in stream.items()
    ]


def _layout_of(sample: Sample) -> str:
    """What must be alike in all samples of a table, in words."""
    segments = "no token types" if sample.segments is None else "token types"
    streams = "".join(f", {name}.{column} {dtype}{shape}" for name, column, dtype, shape in _shapes(sample))
    targets = f"{sample.values.dtype}{sample.values.shape[1:]}"
    return f"{segments}, targets {targets}, extras {sorted(sample.extras)}{streams}"


def _columns(samples: Sequence[Sample], sequences: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The flat columns of some samples, as the cache stores them: `stream.column`, and `stream.count` entries each."""
    columns = {
        _column(UNITS, COUNT): np.array([len(sample.reads) for sample in samples], np.int64),
        _column(UNITS, "at"): np.concatenate([sample.reads for sample in samples]).astype(np.int32),
        _column(UNITS, "values"): np.concatenate([sample.values for sample in samples]),
        _column(UNITS, "weights"): np.concatenate([sample.weights for sample in samples]).astype(np.float32),
    }
    for name in samples[0].extras:
        extras = np.concatenate([sample.extras[name] for sample in samples])
        columns[_column(UNITS, f"{EXTRA}{name}")] = extras.astype(np.float32)
    if TOKENS in sequences:
        columns[_column(TOKENS, COUNT)] = np.array([len(sample.ids) for sample in samples], np.int64)
        columns[_column(TOKENS, "ids")] = np.concatenate([sample.ids for sample in samples]).astype(np.int32)
    if any(sample.segments is not None for sample in samples):
        # A model takes rows without token types for rows of zeros.
        segments = [
            np.zeros(len(sample.ids), np.int8) if sample.segments is None else sample.segments
            for sample in samples
        ]
        columns[_column(TOKENS, "segments")] = np.concatenate(segments).astype(np.int8)
    for name, stream in samples[0].streams.items():
        first = next(iter(stream))
        counts = [len(sample.streams[name][first]) for sample in samples]
        columns[_column(name, COUNT)] = np.array(counts, np.int64)
        for column in stream:
            columns[_column(name, column)] = np.concatenate(
                [sample.streams[name][column] for sample in samples]
            )
    return columns


def _column(stream: str, name: str) -> str:
    return f"{stream}.{name}"


def _in_memory(
    chunks: Iterator[tuple[dict[str, np.ndarray], int]],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    parts: dict[str, list[np.ndarray]] = {}
    truncated_samples = 0
    for columns, truncated in chunks:
        truncated_samples += truncated
        for name, rows in columns.items():
            parts.setdefault(name, []).append(rows)
    return {name: np.concatenate(rows) for name, rows in parts.items()}, {
        "truncated_samples": truncated_samples
    }


def _consistent(
    arrays: dict[str, np.ndarray], facts: dict[str, Any], sequences: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a cache entry holds, once its arrays fit together.

    Raises:
        Damaged: they do not, although every byte has its checksum.
    """
    counts = {name.partition(".")[0]: array for name, array in arrays.items() if name.endswith(f".{COUNT}")}
    if not {UNITS, *sequences} <= counts.keys() or type(facts.get("truncated_samples")) is not int:
        raise cache.Damaged("it is incomplete")
    samples = len(counts[UNITS])
    places = [arrays[name] for name in _WHOLE_NUMBERS if name in arrays]
    for each in [*counts.values(), *places]:
        if each.ndim != 1 or each.dtype.kind not in "iu" or (len(each) and each.min() < 0):
            raise cache.Damaged("its counts are no counts")
    totals = {name: int(each.sum(dtype=np.int64)) for name, each in counts.items()}
    needed = {column for stream, column in _NEEDED if samples and stream in totals}
    columns = [name.partition(".") for name in arrays if not name.endswith(f".{COUNT}")]
    if (
        any(len(each) != samples for each in counts.values())
        or any(
            stream not in totals or len(arrays[f"{stream}.{name}"]) != totals[stream]
            for stream, _, name in columns
        )
        or not needed <= arrays.keys()
    ):
        raise cache.Damaged("its arrays do not fit together")
    return arrays, facts


_WHOLE_NUMBERS = (f"{TOKENS}.ids", f"{TOKENS}.segments", f"{UNITS}.at")
_NEEDED = ((TOKENS, f"{TOKENS}.ids"), *((UNITS, f"{UNITS}.{name}") for name in ("at", "values", "weights")))
"""Streams and the columns that they cannot do without."""
_EMPTY = {
    f"{TOKENS}.ids": np.int32, f"{UNITS}.at": np.int32, f"{UNITS}.values": np.int64, f"{UNITS}.weights": np.float32
}  # fmt: skip
"""Columns of a table without rows, of which no chunk has told anything."""


def _assemble(
    stored: tuple[dict[str, np.ndarray], dict[str, Any]],
    sequences: Mapping[str, int],
    prepare: Prepare | None,
) -> Table:
    arrays, facts = stored
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in (*sequences, UNITS)}
    offsets: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        stream, _, name = key.partition(".")
        if name == COUNT:
            offsets[stream] = offsets_of(array)
        else:
            columns.setdefault(stream, {})[name] = array
    for stream, name, dtype in ((*key.split("."), dtype) for key, dtype in _EMPTY.items()):
        if stream in columns:
            columns[stream].setdefault(name, np.empty(0, dtype))
    streams = {
        name: Stream(columns=columns[name], offsets=offsets[name], positions=sequences.get(name, 0))
        for name in columns
    }
    truncated_samples = int(facts["truncated_samples"])
    return Table(streams=streams, truncated_samples=truncated_samples, prepare=prepare)

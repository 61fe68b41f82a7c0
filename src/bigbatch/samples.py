"""What a model is trained on: streams, tables, batches, micro-batches. Frozen; numpy only; nothing here knows torch.

A *stream* is one kind of entry of every sample (its tokens, its units, its image), as flat columns over offsets. A
*table* is streams over the same samples: a split on the disk, an update's batch and a micro-batch are the same type,
cut by `take`, which copies nothing, and gathered by `load`.

Shape letters: N samples of a table, E entries of a stream, B samples of a batch, T packed tokens, U units (what the
loss counts), C outputs per unit, S streams that run through the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

Packing = Literal["packed", "padded"]

TOKENS, UNITS, MEMORY = "tokens", "units", "memory"
"""Streams that most tables have: columns `ids`, `segments`, `memory` (bool); columns `at`, `values`, `weights`."""
ONE_TOKEN: Mapping[str, int] = {TOKENS: 1}
"""Positions through the blocks that an entry of each stream takes, where samples are token ids alone."""
EXTRA = "extra."
"""In front of the columns of units that are a task's own."""


def starts_of(lengths_B: np.ndarray) -> np.ndarray:
    """Where each row starts when rows of these lengths lie one behind the other (B,) int64."""
    return np.cumsum(lengths_B, dtype=np.int64) - lengths_B


def offsets_of(lengths_B: np.ndarray) -> np.ndarray:
    """Where each row starts, and where the last ends (B + 1,) int64."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_B, dtype=np.int64)])


def flat_indexes(offsets: np.ndarray, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries of some rows lie in the flat array, row after row, without a loop over them.

    Args:
        offsets: (rows + 1,) int64; row r is flat[offsets[r] : offsets[r + 1]].
        rows_B: (B,) row numbers, in any order, repeats allowed.

    Returns:
        (sum of lengths,) int64 indexes into the flat array, and (B,) int64 lengths.
    """
    starts_B = offsets[rows_B]
    lengths_B = offsets[rows_B + 1] - starts_B
    return np.arange(int(lengths_B.sum())) + np.repeat(starts_B - starts_of(lengths_B), lengths_B), lengths_B


# ---------------------------------------------------------------- one row


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One encoded row: what `Task.encode` returns and the token cache stores."""

    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    """Token ids (length,) int32, special tokens included, truncated to `max_length`; none where nothing is read as
    tokens (`Task.sequences`)."""
    segments: np.ndarray | None = None
    """Token types (length,) int8, or None for models without them."""
    reads: np.ndarray
    """Token positions that the head reads, one a unit (U,) int32, relative to the sample's start."""
    values: np.ndarray
    """Targets (U,) int64 class ids, (U,) float32 numbers, (U, C) float32 multi-label rows; of your own tasks others."""
    weights: np.ndarray
    """Weight of each unit (U,) float32; 0 takes a unit out of loss and denominator."""
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further numbers per unit (U,) float32, for losses and metrics of your own."""
    streams: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """What else the sample has: stream -> column -> (entries, …), as many entries in each column of a stream: an image
    is a stream of one entry."""
    truncated: bool = False
    """Whether tokens were cut off to keep `max_length`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Per unit: what the loss and the metrics compare with. Arrays here, tensors inside the step."""

    values: Any
    """(U,) int64, (U,) float32 or (U, C) float32."""
    weights: Any
    """(U,) float32: sample weight times class weight."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers per unit (U,) float32."""

    def map(self, convert: Callable[[Any], Any]) -> Targets:
        """The same targets with every array converted (to tensors, to a device, to a slice)."""
        return Targets(
            values=convert(self.values),
            weights=convert(self.weights),
            extras={name: convert(values) for name, values in self.extras.items()},
        )


# ---------------------------------------------------------------- many


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """One kind of entry of every sample, sample behind sample: parallel columns over one set of offsets."""

    columns: Mapping[str, np.ndarray]
    """Name -> (E, …)."""
    offsets: np.ndarray
    """(N + 1,) int64 into every column; 0, 1, 2, … where each sample has one entry."""
    positions: int = 0
    """Positions through the blocks that an entry takes: 1 a token, its patches an image; 0: it does not run."""
    rows: np.ndarray | None = None
    """Samples that were taken and are not gathered yet (B,) int64; None: all."""

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.rows is None else len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Entries of each sample (N,) int64."""
        if self.rows is None:
            return np.diff(self.offsets)
        return self.offsets[self.rows + 1] - self.offsets[self.rows]

    def take(self, rows: np.ndarray) -> Stream:
        """These samples, in this order, repeats allowed. Nothing is copied."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def load(self) -> Stream:
        """The taken samples' entries, gathered one sample behind the other."""
        if self.rows is None:
            return self
        at_E, lengths_B = flat_indexes(self.offsets, self.rows)
        columns = {name: column[at_E] for name, column in self.columns.items()}
        return Stream(columns=columns, offsets=offsets_of(lengths_B), positions=self.positions)


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Samples with several streams each: a split (memory-mapped from the token cache), a batch, a micro-batch."""

    streams: Mapping[str, Stream]
    groups: np.ndarray | None = None
    """(N,) int64, equal ones side by side: samples of one row (pairs, windows of a text); None: each is alone."""
    together: bool = True  # whether a group stays together in a micro-batch, since its loss is one
    truncated_samples: int = 0
    sources: tuple[int, ...] = ()
    """First sample of each source by share, or shard (`data.mixture`, `data.shards`); empty: all alike, or some."""
    prepare: Prepare | None = None
    """What is done to samples once they are gathered, by themselves whoever else is there: pixels become the model's
    numbers, changed as a column of theirs says. None: nothing."""

    @classmethod
    def of_tokens(
        cls,
        *,
        ids: np.ndarray,
        token_offsets: np.ndarray,
        segments: np.ndarray | None = None,
        reads: np.ndarray,
        unit_offsets: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        extras: Mapping[str, np.ndarray] | None = None,
        truncated_samples: int = 0,
    ) -> Self:
        """A table of one stream of tokens, and units.

        Args:
            ids: (T,) int32, sample behind sample.
            token_offsets: (N + 1,) int64 into `ids` and `segments`.
            segments: (T,) int8 token types, or None.
            reads: (U,) int32 position of the token at which each unit is read, relative to its sample's start.
            unit_offsets: (N + 1,) int64 into `reads`, `values`, `weights` and `extras`.
            values: (U, …) targets.
            weights: (U,) float32.
            extras: name -> (U,) float32.
            truncated_samples: how many were cut.
        """
        tokens = {"ids": ids} if segments is None else {"ids": ids, "segments": segments}
        units = {"at": reads, "values": values, "weights": weights} | {
            f"{EXTRA}{name}": column for name, column in (extras or {}).items()
        }
        return cls(
            streams={
                TOKENS: Stream(columns=tokens, offsets=token_offsets, positions=1),
                UNITS: Stream(columns=units, offsets=unit_offsets),
            },
            truncated_samples=truncated_samples,
        )

    def __len__(self) -> int:
        return len(self.streams[UNITS])

    def __getitem__(self, name: str) -> Stream:
        return self.streams[name]

    def take(self, rows: np.ndarray) -> Table:
        """These samples, in this order, repeats allowed. Nothing is copied until `load`."""
        groups = None if self.groups is None else self.groups[rows]
        streams = {name: stream.take(rows) for name, stream in self.streams.items()}
        return Table(streams=streams, groups=groups, together=self.together, prepare=self.prepare)

    def load(self) -> Table:
        """The taken samples, gathered and made ready."""
        streams = {name: stream.load() for name, stream in self.streams.items()}
        found = replace(self, streams=streams, prepare=None)
        return found if self.prepare is None else self.prepare(found)

    def replaced(self, **streams: Stream) -> Table:
        """The same samples with these streams in place of, or beside, those of their names."""
        return replace(self, streams={**self.streams, **streams})

    # ------------------------------------------------------------ what it costs

    @property
    def sequences(self) -> tuple[Stream, ...]:
        """The streams that run through the blocks."""
        return tuple(stream for stream in self.streams.values() if stream.positions)

    @property
    def lengths_BS(self) -> np.ndarray:
        """Positions of each sample through each stack of blocks (N, S) int64."""
        return np.stack([stream.lengths * stream.positions for stream in self.sequences], axis=1)

    @property
    def lengths_B(self) -> np.ndarray:
        """Positions of each sample through the blocks, all streams together (N,) int64: its tokens, as a rule."""
        first, *others = self.sequences
        if not others and first.positions == 1:
            return first.lengths
        return self.lengths_BS.sum(1)

    @property
    def texts(self) -> Mapping[str, Stream]:
        """The streams of token ids, of those that run through the blocks."""
        found = self.streams.items()
        return {name: one for name, one in found if one.positions and "ids" in one.columns}

    # ------------------------------------------------------------ tokens and units, gathered

    @property
    def ids(self) -> np.ndarray:
        """Token ids (T,) int32."""
        return self._column(TOKENS, "ids")

    @property
    def segments(self) -> np.ndarray | None:
        """Token types (T,) int8, or None."""
        found = self.streams[TOKENS]
        return found.load().columns["segments"] if "segments" in found.columns else None

    @property
    def token_offsets(self) -> np.ndarray:
        """(N + 1,) int64 into `ids` and `segments`."""
        return self.streams[TOKENS].load().offsets

    @property
    def reads(self) -> np.ndarray:
        """(U,) int32: the token at which each unit is read, relative to its sample's start."""
        return self._column(UNITS, "at")

    @property
    def values(self) -> np.ndarray:
        """(U, …) targets."""
        return self._column(UNITS, "values")

    @property
    def weights(self) -> np.ndarray:
        """(U,) float32."""
        return self._column(UNITS, "weights")

    @property
    def extras(self) -> Mapping[str, np.ndarray]:
        """Further numbers of each unit (U,) float32."""
        columns = self.streams[UNITS].load().columns
        return {name.removeprefix(EXTRA): columns[name] for name in columns if name.startswith(EXTRA)}

    @property
    def unit_offsets(self) -> np.ndarray:
        """(N + 1,) int64 into `reads`, `values`, `weights` and `extras`."""
        return self.streams[UNITS].load().offsets

    @property
    def targets(self) -> Targets:
        """Of all units, in order; copied only where samples were taken and not gathered."""
        found = replace(self, streams={UNITS: self.streams[UNITS].load()})
        return Targets(values=found.values, weights=found.weights, extras=found.extras)

    @property
    def counted_units(self) -> np.ndarray:
        """Units of each sample whose weight is not 0 (N,) int64."""
        units = self.streams[UNITS].load()
        found_B, filled_B = np.zeros(len(self), np.int64), units.lengths > 0
        if filled_B.any():
            counts_U = np.asarray(units.columns["weights"]) > 0
            found_B[filled_B] = np.add.reduceat(counts_U, units.offsets[:-1][filled_B], dtype=np.int64)
        return found_B

    def weighted(self, weights: np.ndarray) -> Table:
        """The same table with these weights of its units (U,)."""
        units = self.streams[UNITS].load()
        return self.replaced(units=replace(units, columns={**units.columns, "weights": weights}))

    def _column(self, stream: str, name: str) -> np.ndarray:
        return self.streams[stream].load().columns[name]


Prepare = Callable[[Table], Table]
"""`prepare(gathered)`: what the model is given of them; a function of each sample alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalBatch:
    """All samples of one update, over all ranks, in stream order."""

    update: int
    """1-based number of the update that consumes this batch."""
    first_position: int
    """Stream position (samples consumed before this batch)."""
    sample_ids_B: np.ndarray
    """Row numbers in the split's table (B,) int64."""
    lengths_B: np.ndarray
    """Positions of each row through the blocks (B,) int64."""
    table: Table
    """What this update sees of these rows, in this order: taken from the split and not gathered, or a view of it."""
    targets: Targets
    """Targets of all units of the batch, in stream order: enough for every denominator."""

    @property
    def samples(self) -> int:
        return len(self.sample_ids_B)

    @property
    def tokens(self) -> int:
        return int(self.lengths_B.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """Samples that run through the model together, concatenated without padding.

    The padded path pads them itself; `capacity_tokens` bounds what is computed, padding included.
    """

    index: int
    """Number within the update (or within the evaluation pass), from 0."""
    sample_ids_B: np.ndarray
    """(B,) int64; -1 marks filler."""
    table: Table
    """The samples, gathered."""
    targets: Targets
    """Of the units, weighed."""
    packing: Packing
    capacity_tokens: int
    """Upper bound of computed tokens that the plan allows; larger only when one sample alone exceeds it."""
    last: bool = False
    """Whether this process has no further one in the update: its gradients are complete after it."""

    @cached_property
    def ids_T(self) -> np.ndarray:
        """(T,) int64 token ids, samples one behind the other."""
        return self.table.ids.astype(np.int64)

    @cached_property
    def segments_T(self) -> np.ndarray | None:
        """(T,) int64 token types or None."""
        found = self.table.segments
        return None if found is None else found.astype(np.int64)

    @cached_property
    def lengths_B(self) -> np.ndarray:
        """(B,) int64 tokens of each sample; of samples that are none, their positions through the blocks."""
        tokens = self.table.streams.get(TOKENS)
        return self.table.lengths_B if tokens is None else tokens.lengths

    @cached_property
    def reads_U(self) -> np.ndarray:
        """(U,) int64 positions in `ids_T` that the head reads."""
        return self.table.reads.astype(np.int64) + np.repeat(
            starts_of(self.lengths_B), self.table[UNITS].lengths
        )

    @cached_property
    def unit_sample_U(self) -> np.ndarray:
        """(U,) int64: which of the B samples each unit belongs to."""
        units_B = self.table[UNITS].lengths
        return np.repeat(np.arange(len(units_B), dtype=np.int64), units_B)

    @cached_property
    def tokens(self) -> int:
        """Positions through the blocks without padding: real tokens."""
        return int(self.table.lengths_B.sum())

    @cached_property
    def computed_tokens(self) -> int:
        """Positions that run through the blocks: with padding for padded micro-batches."""
        if self.packing == "packed":
            return self.tokens
        return len(self.table) * int(self.table.lengths_BS.max(axis=0, initial=0).sum())

    def reading(self, at_U: np.ndarray, sample_U: np.ndarray) -> MicroBatch:
        """The same samples with other units, each of weight 1 and target 0: to read other tokens.

        Args:
            at_U: (U,) positions in `ids_T`.
            sample_U: (U,) which sample each belongs to, ascending.
        """
        counts_B = np.bincount(sample_U, minlength=len(self.table))
        columns = {
            "at": at_U - starts_of(self.lengths_B)[sample_U],
            "values": np.zeros(len(at_U), np.int64),
            "weights": np.ones(len(at_U), np.float32),
        }
        table = self.table.replaced(units=Stream(columns=columns, offsets=offsets_of(counts_B)))
        return replace(self, table=table)


@dataclass(frozen=True, kw_only=True)
class LossSums:
    """What one pass over the micro-batches of an update left behind, summed over micro-batches and ranks."""

    terms: Mapping[str, float]
    """Loss of each term: weighted sum over units divided by the term's global denominator (nats)."""
    real_tokens: int
    computed_tokens: int
    wait_seconds: float = 0.0
    """Of this rank, for micro-batches to be cut."""

    @property
    def loss(self) -> float:
        return sum(self.terms.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Decoded model outputs of units, as numpy arrays; what metrics and `predict` read."""

    kind: Literal[
        "single", "multi", "regression", "language", "embedding", "span", "boxes", "contacts", "separations"
    ]
    scores: np.ndarray
    """(U, C) float64: logits, numbers or embeddings; of language models (U, 2): nats of the true one, 1 if best."""
    probabilities: np.ndarray | None
    """(U, C) float64 softmax or sigmoid; None for regression and language models."""
    values: np.ndarray
    """(U,) int64 classes; multi-label (U, C) bool; numbers (U,) or (U, C) float64; of language models (U,) hits."""

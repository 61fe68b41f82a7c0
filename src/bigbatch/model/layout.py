"""Where each sample of a packed micro-batch lies. Computed once a micro-batch, shared by all layers.

Shape letters: B samples, T packed tokens, U units, R rows (distinct tokens that the head reads), S slots of a
padded group (samples x longest), Q queries of the sample that has most in a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.model.patterns import Pattern
from bigbatch.samples import MicroBatch

_WASTE = 1.3
"""A group of neighbours is attended together while padding makes its score matrices at most this much
larger."""
SPARE = 6000
"""Scores of a head that a group may waste besides where micro-batches have two streams: samples are sorted by both
lengths together, so that neighbours differ more, and a call of its own costs more than what a few short ones waste."""
_FEW = 0.75
"""The last block is computed for read tokens only while these are at most this share of all: the keys and values
of read tokens are computed twice, 2 of the 12 units of work of a block."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Neighbouring samples that one attention call handles."""

    tokens: int
    """Packed tokens of the group."""
    samples: int
    longest: int
    slots_T: Tensor | None
    """(tokens,) int64 place of each token in (samples x longest) slots; None when all lengths are equal."""
    real_BK: Tensor | None
    """(samples, 1, 1, longest) bool: slots that hold a token; None when all do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadGroup:
    """The read tokens of a group, as the queries of one attention call."""

    rows: int
    """Read tokens of the group."""
    most: int
    """Read tokens of the sample that has most."""
    slots_R: Tensor | None
    """(rows,) int64 place of each in (samples x most) slots; None when all samples have as many."""
    at_BQ: Tensor
    """(samples, most) int64 position of each query in its sample; 0 in empty slots."""
    all_last: bool
    """Whether each query is the last token of the longest: then causal attention hides nothing from it."""


@dataclass(kw_only=True, eq=False)
class LastBlock:
    """What the last block hands from its first pass (keys and values of all tokens) to its second (queries).

    The one thing in a layout that changes: it lives as long as one forward pass.
    """

    rows_R: Tensor
    """(R,) int64 distinct packed positions that the head reads, ascending."""
    at_R: np.ndarray
    """The same, on the host."""
    groups: tuple[ReadGroup, ...]
    tokens: int
    """T, all tokens of the pack."""
    applications: int
    """How often the last block's module is applied; ALBERT applies one module many times."""
    applied: int = 0
    """Applications so far."""
    stage: Literal["before", "keys", "queries", "after"] = "before"
    keys_1HTW: Tensor | None = None
    values_1HTW: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """A packed micro-batch as attention and head need it."""

    cumulative_B1: np.ndarray
    """(B + 1,) int64: sample i has the tokens cumulative[i] … cumulative[i + 1] - 1."""
    groups: tuple[Group, ...]
    reads_U: Tensor
    """(U,) int64 positions in the pack that the head reads."""
    inputs: dict[str, Tensor | bool]
    """What the base model is given instead of the outer call's arguments."""
    bands: dict[tuple[int, int | Pattern | None, bool], Tensor] = field(default_factory=dict)
    """Masks of windows and patterns by (longest, window or pattern, causal), made when first needed."""
    witness: Callable[[nn.Module, int | None], None] | None = None
    """Told of every attention call (module, window): trial runs only."""
    last: LastBlock | None = None
    """When the last block is computed for read tokens only."""
    kernel: str = "sdpa"
    """Name of what computes attention, in `attention.KERNELS`."""
    one_shape: bool = False
    """Whether attention's results are copied to memory of their own: compiled code is specialised on what a tensor
    is a view of, and that differs with the groups."""

    masks: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """What a kernel keeps for all layers, made when first needed."""
    source: Layout | None = None
    """Of a decoder: the layout of what its encoder reads."""
    across: tuple[tuple[Group, Group], ...] = ()
    """Of a decoder: runs of samples as queries, and the same ones as keys of the encoder."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(group.longest for group in self.groups)

    def starts(self) -> Tensor:
        """(B + 1,) int32 on the device: where each sample begins, and where the last ends."""
        if ("starts",) not in self.masks:
            self.masks["starts",] = to_device(self.cumulative_B1.astype(np.int32), self.reads_U.device)
        return self.masks["starts",]

    def sample_of_token(self) -> Tensor:
        """(T,) int64 on the device: which sample each token belongs to."""
        if ("samples",) not in self.masks:
            lengths_B = np.diff(self.cumulative_B1)
            samples_T = np.repeat(np.arange(len(lengths_B), dtype=np.int64), lengths_B)
            self.masks["samples",] = to_device(samples_T, self.reads_U.device)
        return self.masks["samples",]

    def band(self, longest: int, window: int | Pattern | None, causal: bool) -> Tensor:
        """(longest, longest) bool: pairs of query and key with |q - k| < window, and k <= q when causal.

        Args:
            longest: tokens.
            window: tokens that a query sees on each side, itself included; or a pattern.
            causal: whether keys behind the query only.
        """
        key = (longest, window, causal)
        if key not in self.bands:
            at = torch.arange(longest, device=self.reads_U.device)
            pattern = window if isinstance(window, Pattern) else Pattern(window=window or longest)
            seen = pattern.seen(at[:, None], at)
            self.bands[key] = seen & ((at <= at[:, None]) | (not causal))
        return self.bands[key]


@dataclass(frozen=True, eq=False)
class Across:
    """Stands in for a layout where a decoder reads its encoder."""

    layout: Layout
    """The decoder's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """What one layer asks of attention over a pack, beside queries, keys and values."""

    layout: Layout
    """Of the micro-batch."""
    reads_only: bool = False
    """Whether the queries are those of `layout.last`."""
    window: int | None = None
    """A token sees those less than so many away; None: all."""
    pattern: Pattern | None = None
    """Which token of a sample sees which; None: all, or those in the window."""
    causal: bool = False
    """Whether a token sees none behind it."""
    dropout: float = 0.0
    """Of attention weights."""
    scaling: float | None = None
    """Of the scores; None: 1 / sqrt(W)."""
    bias: Tensor | None = None
    """(1, H, longest, longest) added to the scores by the places of query and key in their sample."""
    across: bool = False
    """Whether keys are those of the encoder that `layout.source` lays out."""


def cumulative_lengths(lengths_B: np.ndarray) -> np.ndarray:
    """(B + 1,) int64 start of each sample in the pack, and the end of the last."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths_B, dtype=np.int64)])


def positions_in_sample(cumulative_B1: np.ndarray, offset: int = 0) -> np.ndarray:
    """(T,) int64 position of each packed token in its own sample, from `offset`."""
    lengths_B = np.diff(cumulative_B1)
    return np.arange(cumulative_B1[-1]) - np.repeat(cumulative_B1[:-1], lengths_B) + offset


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as int64 (or its own) tensor on the device; no wait for a GPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    # Only from pinned memory does the copy really go on by itself; torch keeps the pages until it is done.
    return tensor.pin_memory().to(device, non_blocking=True)


def group_samples(
    lengths_B: np.ndarray, keys_B: np.ndarray | None = None, *, spare: int = 0
) -> list[tuple[int, int]]:
    """Cut the samples, in order, into runs [(first, end)] that waste little when padded to their longest.

    Args:
        lengths_B: (B,) queries of each sample.
        keys_B: (B,) keys; None: as many as queries.
        spare: scores that a run may waste besides.
    """
    queries_B, keys_B = lengths_B, lengths_B if keys_B is None else keys_B
    found: list[tuple[int, int]] = []
    first, high, wide, scores = 0, 0, 0, 0
    for index, (queries, keys) in enumerate(zip(queries_B.tolist(), keys_B.tolist(), strict=True)):
        higher, wider = max(high, queries), max(wide, keys)
        if (
            index > first
            and (index + 1 - first) * higher * wider > _WASTE * (scores + queries * keys) + spare
        ):
            found.append((first, index))
            first, higher, wider, scores = index, queries, keys, 0
        high, wide, scores = higher, wider, scores + queries * keys
    return [*found, (first, len(queries_B))]


def groups_of(cumulative_B1: np.ndarray, device: torch.device, spare: int = 0) -> tuple[Group, ...]:
    """Runs of neighbours of one stream.

    Args:
        cumulative_B1: (B + 1,) where each sample begins.
        device: of the indexes.
        spare: scores that a run may waste besides (`group_samples`).
    """
    runs = group_samples(np.diff(cumulative_B1), spare=spare)
    return tuple(_group(cumulative_B1, first, end, device) for first, end in runs)


def across_groups(
    queries_B1: np.ndarray, keys_B1: np.ndarray, device: torch.device
) -> tuple[tuple[Group, Group], ...]:
    """Runs of neighbours that waste little when queries and keys are padded, each to their longest.

    Args:
        queries_B1: (B + 1,) where each sample's queries begin.
        keys_B1: (B + 1,) where its keys do.
        device: of the indexes.
    """
    runs = group_samples(np.diff(queries_B1), np.diff(keys_B1), spare=SPARE)
    return tuple(
        (_group(queries_B1, first, end, device), _group(keys_B1, first, end, device)) for first, end in runs
    )


def build_layout(
    micro_batch: MicroBatch,
    device: torch.device,
    *,
    inputs: dict[str, Tensor | bool],
    kernel: str = "sdpa",
) -> Layout:
    """Indices of one micro-batch on the device.

    Args:
        micro_batch: packed samples.
        device: where the model is.
        inputs: what the base model is given.
        kernel: name of what computes attention.
    """
    cumulative_B1 = cumulative_lengths(micro_batch.lengths_B)
    return Layout(
        cumulative_B1=cumulative_B1,
        groups=groups_of(cumulative_B1, device),
        reads_U=to_device(micro_batch.reads_U, device),
        inputs=inputs,
        kernel=kernel,
    )


def with_last_block(
    layout: Layout, micro_batch: MicroBatch, applications: int, most_pairs: int | None = None
) -> Layout:
    """The layout for a last block that is computed for read tokens only, where these are few.

    Args:
        layout: of the micro-batch.
        micro_batch: says which tokens are read.
        applications: how often the last block's module is applied; its last application is the one.
        most_pairs: of read tokens and all tokens, where attention's are few: more of them are more work than the block;
            None: any number.
    """
    reads_U, cumulative_B1, device = micro_batch.reads_U, layout.cumulative_B1, layout.reads_U.device
    tokens = int(cumulative_B1[-1])
    rows_R = np.unique(reads_U)
    if len(rows_R) > _FEW * tokens or len(rows_R) * layout.longest > (most_pairs or math.inf):
        return layout
    sample_R = np.searchsorted(cumulative_B1, rows_R, side="right") - 1
    at_R = rows_R - cumulative_B1[sample_R]
    ends = np.cumsum([group.samples for group in layout.groups]).tolist()
    groups = [
        _read_group(sample_R, at_R, cumulative_B1, end - group.samples, end, device)
        for group, end in zip(layout.groups, ends, strict=True)
    ]
    last = LastBlock(
        rows_R=to_device(rows_R, device),
        at_R=rows_R,
        groups=tuple(groups),
        tokens=tokens,
        applications=applications,
    )
    return replace(layout, last=last)


def _read_group(
    sample_R: np.ndarray,
    at_R: np.ndarray,
    cumulative_B1: np.ndarray,
    first: int,
    end: int,
    device: torch.device,
) -> ReadGroup:
    inside = slice(*np.searchsorted(sample_R, [first, end]))
    sample, at = sample_R[inside] - first, at_R[inside]
    counts_B = np.bincount(sample, minlength=end - first)
    most = int(counts_B.max())
    slots = sample * most + positions_in_sample(cumulative_lengths(counts_B))
    at_BQ = np.zeros((end - first) * most, dtype=np.int64)
    at_BQ[slots] = at
    longest = int(np.diff(cumulative_B1[first : end + 1]).max())
    return ReadGroup(
        rows=len(at),
        most=most,
        slots_R=None if (counts_B == most).all() else to_device(slots, device),
        at_BQ=to_device(at_BQ.reshape(end - first, most), device),
        all_last=bool((at_BQ == longest - 1).all()),
    )


def _group(cumulative_B1: np.ndarray, first: int, end: int, device: torch.device) -> Group:
    bounds = cumulative_B1[first : end + 1] - cumulative_B1[first]
    lengths = np.diff(bounds)
    longest = int(lengths.max())
    slots = real = None
    if (lengths != longest).any():
        sample = np.repeat(np.arange(end - first), lengths)
        slots = to_device(sample * longest + positions_in_sample(bounds), device)
        real = to_device(np.arange(longest) < lengths[:, None], device)[:, None, None, :]
    return Group(tokens=int(bounds[-1]), samples=end - first, longest=longest, slots_T=slots, real_BK=real)

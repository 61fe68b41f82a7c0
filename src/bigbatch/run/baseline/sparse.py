"""Sparse rows: a few weighted features each, as flat arrays, and their products with dense matrices.

Shapes: N rows, E entries, F features, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding_bag

BLOCK_ROWS = 64
"""Rows of one side that are made dense at a time, where sparse rows meet sparse rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sparse:
    """N sparse rows; arrays of equal length are one behind the other, row after row.

    `rows[numbers]`, `rows.T`, `len(rows)` and `a @ b.T` are those of a dense matrix: whoever ranks embeddings can rank
    these.
    """

    features: np.ndarray
    """(E,) int32 number of the feature."""
    values: np.ndarray
    """(E,) float32."""
    offsets: np.ndarray
    """(N + 1,) int64 into both."""
    width: int
    """Features that there are."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, chosen: np.ndarray | slice) -> Sparse:
        """Some rows, in this order."""
        rows_B = np.arange(len(self))[chosen]
        counts_B = np.diff(self.offsets)[rows_B]
        ends_B = np.cumsum(counts_B)
        places = np.arange(int(counts_B.sum())) + np.repeat(
            self.offsets[rows_B] - (ends_B - counts_B), counts_B
        )
        return Sparse(
            features=self.features[places],
            values=self.values[places],
            offsets=np.concatenate([np.zeros(1, np.int64), ends_B]),
            width=self.width,
        )

    @property
    def T(self) -> Transposed:
        """What can be multiplied from the left."""
        return Transposed(self)

    def __matmul__(self, other: Transposed) -> np.ndarray:
        """Every row with every row of the other: (N, M) float32."""
        found = [np.empty((0, len(other.rows)), np.float32)]
        for first in range(0, len(self), BLOCK_ROWS):
            dense_FB = torch.from_numpy(np.ascontiguousarray(self[first : first + BLOCK_ROWS].dense().T))
            found.append(Product(other.rows)(dense_FB).numpy().T)
        return np.concatenate(found)

    def dense(self) -> np.ndarray:
        """(N, F) float32."""
        whole_NF = np.zeros((len(self), self.width), np.float32)
        whole_NF[np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.features] = self.values
        return whole_NF


@dataclass(frozen=True)
class Transposed:
    """The other way of looking at sparse rows."""

    rows: Sparse


class Product:
    """Sparse rows times a dense matrix: (N, F) (F, C) -> (N, C), summed in one order whatever the threads."""

    def __init__(self, rows: Sparse) -> None:
        self._features = torch.from_numpy(rows.features)
        self._values = torch.from_numpy(rows.values)
        self._offsets = torch.from_numpy(rows.offsets.astype(np.int32))

    def __call__(self, dense_FC: torch.Tensor) -> torch.Tensor:
        return embedding_bag(
            self._features,
            dense_FC,
            self._offsets,
            mode="sum",
            per_sample_weights=self._values,
            include_last_offset=True,
        )


def flipped(rows: Sparse) -> Sparse:
    """The same matrix with rows and features exchanged."""
    order = np.argsort(rows.features, kind="stable")
    owners = np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(rows.offsets))
    counts_F = np.bincount(rows.features, minlength=rows.width)
    return Sparse(
        features=owners[order],
        values=rows.values[order],
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_F)]),
        width=len(rows),
    )


def beside(blocks: list[Sparse]) -> Sparse:
    """Matrices of equally many rows, side by side."""
    rows = len(blocks[0])
    owners = np.concatenate([np.repeat(np.arange(rows), np.diff(block.offsets)) for block in blocks])
    starts = np.cumsum([0, *(block.width for block in blocks)])
    order = np.argsort(owners, kind="stable")
    features = [block.features + np.int32(start) for block, start in zip(blocks, starts, strict=False)]
    return Sparse(
        features=np.concatenate(features)[order],
        values=np.concatenate([block.values for block in blocks])[order],
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(owners, minlength=rows))]),
        width=int(starts[-1]),
    )

"""Rows that hold token ids already: taken as they are, padding dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bigbatch.errors import DataError, Problem
from bigbatch.records import Sample

IGNORED_LABEL = -100
"""Hugging Face's mark for "no target here": weight 0."""


def encode_tokenised(row: Mapping[str, Any], task: Any, where: str) -> Sample:
    """A sample from `input_ids`, optional `attention_mask` and `token_type_ids`, and `labels`.

    Args:
        row: the columns; masked-out tokens are dropped.
        task: its `kind`, `pool` and `max_length` decide how `labels` and the read position are understood. Numbers in
            `labels` are class ids; a list is one multi-label row (kind `multi`) or one label a token.
        where: `file:row` for messages.

    Raises:
        DataError: no tokens, unequal lengths, or more tokens than `max_length`.
    """
    ids = np.asarray(row["input_ids"], np.int64).reshape(-1)
    kept = _aligned(row, "attention_mask", ids, where)
    kept = np.ones(len(ids), bool) if kept is None else kept.astype(bool)
    segments = _aligned(row, "token_type_ids", ids, where)
    limit = getattr(task, "max_length", None)
    if not kept.any():
        raise _error(where, "input_ids", "no tokens are left after the attention mask")
    if limit and kept.sum() > limit:
        raise _error(where, "input_ids", f"{kept.sum()} tokens, but max_length is {limit}; token ids are taken as they are")
    values, weights, reads = _targets(row.get("labels"), kept, task, where)
    return Sample(
        ids=ids[kept].astype(np.int32),
        segments=None if segments is None else segments[kept].astype(np.int8),
        reads=reads,
        values=values,
        weights=weights,
    )


def _targets(labels: Any, kept: np.ndarray, task: Any, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, weights and read positions: one unit a sample, or one a token."""
    kind = getattr(task, "kind", "single")
    if labels is None:
        raise _error(where, "labels", "missing")
    found = np.asarray(labels)
    if found.ndim and found.size == 1 and kind != "multi":
        found = found.reshape(())
    if found.ndim and kind != "multi":
        if len(found) != len(kept):
            raise _error(where, "labels", f"{len(found)} labels for {len(kept)} tokens")
        units = found[kept].astype(np.int64)
        return np.where(units < 0, 0, units), _weights(units), np.arange(len(units), dtype=np.int32)
    last = int(kept.sum()) - 1
    reads = np.array([last if getattr(task, "pool", "first") == "last" else 0], np.int32)
    if kind == "multi":
        row = found.reshape(1, -1).astype(np.float32)
        return np.where(row < 0, 0, row), np.array([float((row >= 0).all())], np.float32), reads
    if kind == "regression":
        return found.reshape(1).astype(np.float32), np.ones(1, np.float32), reads
    unit = found.reshape(1).astype(np.int64)
    return np.where(unit < 0, 0, unit), _weights(unit), reads


def _weights(units_U: np.ndarray) -> np.ndarray:
    return (units_U != IGNORED_LABEL).astype(np.float32)


def _aligned(row: Mapping[str, Any], name: str, ids: np.ndarray, where: str) -> np.ndarray | None:
    if row.get(name) is None:
        return None
    values = np.asarray(row[name], np.int64).reshape(-1)
    if len(values) != len(ids):
        raise _error(where, name, f"{len(values)} values for {len(ids)} tokens")
    return values


def _error(where: str, key: str, what: str) -> DataError:
    return DataError([Problem(where=where, key=key, what=what)])

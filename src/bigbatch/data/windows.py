"""Questions whose texts are longer than the model reads: windows of one row, each a sample of its own.

The token cache keeps a question's windows one behind the other, with a unit a window. What runs through the model is a
table of windows, in which every token is a unit: an answer may start or end at each. Windows of a question need not
share a micro-batch, since the loss of each is its own; `Table.groups` says whose they are.

Shapes: B rows, W windows of these rows, T tokens of these windows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bigbatch.samples import TOKENS, UNITS, Stream, Table, flat_indexes, offsets_of

WINDOW, COUNT, FLAGS = 0, 1, 2
"""Columns of a unit's values: number of its window, windows of its question, and which of the flags apply."""
STARTS, ENDS, NULL, FIRST = 1, 2, 4, 8
"""Flags of a token: the answer starts here, ends here; it stands for no answer; it is the question's first."""
QUESTION, BEGIN, END = 3, 4, 5
"""Further columns where windows are evaluated: number of the question in the table, first character of the token in the
text and the one behind it; -1 where the token is none of the text's."""
LENGTH, FROM, TO, AT = 3, 4, 5, 6
"""Further columns of a cached window: its tokens; where in it the answer starts, where it ends; which token stands for
no answer."""
PLACES, CONTEXT, ANSWERS = "places", "context", "answers"
"""Streams of the cache: `begin` and `end` of each token as above; the text and the answers (JSON), UTF-8 in `bytes`."""


def window_table(table: Table, rows_B: np.ndarray, *, whole: bool) -> Table:
    """The windows of some rows, each as a sample, row after row.

    Args:
        table: cached rows.
        rows_B: (B,) row numbers, repeats allowed.
        whole: with what an evaluation needs: values (T, 6) instead of (T, 3), and a question's text and answers in its
            first window.

    Returns:
        A table of W samples with T units; `values` are int32, columns as above.
    """
    tokens, units = table[TOKENS].load(), table[UNITS].load()
    tokens_T, _ = flat_indexes(tokens.offsets, rows_B)
    units_W, counts_B = flat_indexes(units.offsets, rows_B)
    cached_W7 = np.asarray(units.columns["values"])[units_W].astype(np.int64)
    offsets = offsets_of(cached_W7[:, LENGTH])
    begins_W, windows_T = offsets[:-1], np.repeat(np.arange(len(units_W)), cached_W7[:, LENGTH])
    questions_W = np.repeat(np.arange(len(rows_B), dtype=np.int64), counts_B)
    flags_T = np.zeros(len(windows_T), np.int32)
    for column, flag in ((FROM, STARTS), (TO, ENDS), (AT, NULL)):
        flags_T[begins_W + cached_W7[:, column]] |= flag
    firsts_W = (cached_W7[:, FLAGS] & FIRST) > 0
    flags_T[begins_W[firsts_W]] |= FIRST
    columns_T = [windows_T, cached_W7[windows_T, COUNT], flags_T]
    if whole:
        places = table[PLACES].load()
        at_T, _ = flat_indexes(places.offsets, rows_B)
        columns_T += [
            questions_W[windows_T],
            *(np.asarray(places.columns[name])[at_T] for name in ("begin", "end")),
        ]
    columns = {
        "at": (np.arange(len(windows_T)) - begins_W[windows_T]).astype(np.int32),
        "values": np.column_stack(columns_T).astype(np.int32),
        "weights": np.asarray(units.columns["weights"])[units_W][windows_T],
    }
    streams = {
        TOKENS: replace(
            tokens,
            columns={name: column[tokens_T] for name, column in tokens.columns.items()},
            offsets=offsets,
            rows=None,
        ),
        UNITS: Stream(columns=columns, offsets=offsets),
    }
    for name in {CONTEXT, ANSWERS} & set(table.streams) if whole else ():
        streams[name] = _at_firsts(table[name].load(), rows_B, firsts_W)
    return replace(table, streams=streams, groups=questions_W, together=False)


def _at_firsts(stream: Stream, rows_B: np.ndarray, firsts_W: np.ndarray) -> Stream:
    """What rows have, at the first window of each."""
    at_E, lengths_B = flat_indexes(stream.offsets, rows_B)
    lengths_W = np.zeros(len(firsts_W), np.int64)
    lengths_W[firsts_W] = lengths_B
    return Stream(
        columns={name: column[at_E] for name, column in stream.columns.items()}, offsets=offsets_of(lengths_W)
    )


def texts_of(table: Table, stream: str) -> list[bytes]:
    """Of each question of a table of windows, in order: its text, or its answers."""
    found = table[stream].load()
    firsts_W = (np.asarray(table.values)[table.unit_offsets[:-1], FLAGS] & FIRST) > 0
    content = np.asarray(found.columns["bytes"])
    return [
        content[first:end].tobytes()
        for first, end in zip(found.offsets[:-1][firsts_W], found.offsets[1:][firsts_W], strict=True)
    ]


def window_starts(values: np.ndarray) -> np.ndarray:
    """(W,) int64: the first unit of each window, of units that lie window by window."""
    return np.flatnonzero(np.diff(values[:, WINDOW], prepend=-1) != 0)

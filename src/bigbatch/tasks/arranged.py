"""The samples of a split, cut out of its rows by the task: each of one source, where there are several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bigbatch.data.mixture import joined
from bigbatch.samples import Table
from bigbatch.tasks.base import Task


def arranged(task: Task, table: Table, sources: tuple[int, ...]) -> Table:
    """The samples that are learnt or judged.

    Args:
        task: says how rows are cut.
        table: of rows.
        sources: first row of each source; empty: all rows are alike.
    """
    if not sources:
        return task.arrange(table)
    ends = [*sources[1:], len(table)]
    whole = replace(table, sources=sources)
    if getattr(task.arrange, "__func__", None) is Task.arrange:
        return whole
    parts = []
    for first, end in zip(sources, ends, strict=True):
        piece = table.take(np.arange(first, end)).load()
        parts.append(task.arrange(piece))
        if parts[-1] is piece:  # rows stay as they are, and the whole needs no copy
            return whole
    return replace(joined(parts), truncated_samples=table.truncated_samples)

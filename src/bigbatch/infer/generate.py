"""Texts that an encoder-decoder writes of a whole split: greedily or with beams, many at a time, in batches by length.

From the same start as training: the decoder's first token, and what the tokenizer puts in front of every target (a mark
of the language, say). Where ranks divide the model, all take equally many steps, greedily (`infer.decoding`).

Which texts share a batch does not depend on the ranks. Shapes: B texts, N of a table, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from bigbatch.data.packs import cut
from bigbatch.infer.decoding import NONE, Marks, batch_of_pairs, by_transformers, stepwise, until_their_ends
from bigbatch.infer.forwards import inferring
from bigbatch.infer.sampling import Decoding
from bigbatch.model.anatomy import device_of, headed_model
from bigbatch.model.source import quiet
from bigbatch.protocols import Forward, World
from bigbatch.samples import Table
from bigbatch.tasks.seq2seq import REFERENCE, SOURCE, Seq2Seq

_LONGER, _MORE = 2, 50
"""A text ends, at the latest, after so many times its source's tokens, and so many more: one that never stops must not
hold up the others."""
BATCH = 4
"""Times the tokens of a forward pass that a batch may have: one step computes one token a text."""


def texts_of(
    forward: Forward, task: Seq2Seq, table: Table, *, micro_tokens: int, world: World | None = None
) -> tuple[list[str], list[str]]:
    """(what the model writes, what was wanted) for each sample of a table.

    Args:
        forward: has the `module`.
        task: knows tokenizer and marks; without a tokenizer, ids stand for words.
        table: of one split, with targets.
        micro_tokens: as of a forward pass.
        world: the ranks that share the work; each gets all texts.
    """
    found = written(forward, task, table, micro_tokens=micro_tokens, world=world)
    return [task.text_of(ids) for ids in found], wanted_of(task, table)


def wanted_of(task: Seq2Seq, table: Table) -> list[str]:
    """The targets of a table: as they were typed, or, of token ids, as the tokenizer has them."""
    if REFERENCE in table.streams:
        stream = table[REFERENCE].load()
        bounds = zip(stream.offsets[:-1], stream.offsets[1:], strict=True)
        return [bytes(stream.columns["bytes"][first:end]).decode() for first, end in bounds]
    bounds = zip(table.unit_offsets[:-1], table.unit_offsets[1:], strict=True)
    return [task.text_of(table.values[first:end].tolist()) for first, end in bounds]


def written(
    forward: Forward, task: Seq2Seq, table: Table, *, micro_tokens: int, world: World | None = None
) -> list[list[int]]:
    """Token ids that the model writes for each sample (N lists), without start and end marks.

    Args:
        forward: has the `module`, which is put into eval mode meanwhile.
        task: knows the marks.
        table: of one split; targets are not read.
        micro_tokens: computed tokens of a forward pass.
        world: the ranks that share the work; each gets all texts.
    """
    module: nn.Module = forward.module  # type: ignore[attr-defined]
    divided = any(hasattr(parameter, "placements") for parameter in module.parameters())
    rank, size = (0, 1) if world is None else (world.part.rank, world.part.size)
    between = getattr(forward, "between", None)
    found: list[np.ndarray] = []
    outer, marks = headed_model(module), marks_of(task)
    bounds_N, how = most_N(task, table), Decoding(beams=task.beams)
    with inferring(forward), quiet():
        for chosen_B, most in _batches(table, bounds_N, micro_tokens, size, even=divided)[rank::size]:
            if between is not None:
                between()
            batch = batch_of_pairs(table, chosen_B, bounds_N[chosen_B], marks, device_of(outer))
            ids_BL = stepwise(outer, batch, most) if divided else by_transformers(outer, batch, how)
            # Its own bound, not that of the longest beside it: what is written does not depend on the batches.
            ids_BL, _ = until_their_ends(ids_BL, batch.most_B, marks.ends)
            found.append(np.concatenate([chosen_B[:, None], ids_BL], axis=1))
    return _in_order(found, len(table), world)


def marks_of(task: Seq2Seq) -> Marks:
    """What frames a text that an encoder-decoder writes."""
    _, end, pad = task.marks
    return Marks(ends=() if end is None else (end,), pad=pad or 0, shown=task.target_frame[0])


def _batches(
    table: Table, bounds_N: np.ndarray, micro_tokens: int, ranks: int, *, even: bool
) -> list[tuple[np.ndarray, int]]:
    """(samples, tokens that each may get) of each batch; the ranks take them in turn.

    Where they have to take their steps together, as many as there are ranks get equally many tokens, and a rank for
    which nothing is left writes the first texts again.
    """
    pieces = cut(table[SOURCE].lengths + bounds_N, BATCH * micro_tokens, "padded")
    found = [(chosen, int(bounds_N[chosen].max())) for chosen in pieces]
    if not even:
        return found
    found += found[:1] * (-len(found) % ranks)
    turns = [found[first : first + ranks] for first in range(0, len(found), ranks)]
    return [(chosen, max(most for _, most in turn)) for turn in turns for chosen, _ in turn]


def most_N(task: Seq2Seq, table: Table) -> np.ndarray:
    """(N,) int64: tokens that the text of each sample may get; behind those that the decoder is shown at first the
    model has positions for no more.
    """
    bounds_N = _LONGER * table[SOURCE].lengths + _MORE
    return np.maximum(1, np.minimum(bounds_N, task.most_written - len(task.target_frame[0])))


def _in_order(found: Sequence[np.ndarray], count: int, world: World | None) -> list[list[int]]:
    """Texts in table order, of all ranks: (sample, its tokens) side by side."""
    width = max((len(rows[0]) for rows in found), default=1)
    if world is not None and world.size > 1:
        width = max(int(rows.max()) for rows in world.gather_rows(np.array([[width]], np.int64)))
    filled = [np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=NONE) for rows in found]
    mine = np.concatenate([*filled, np.empty((0, width), np.int64)])
    every = [mine] if world is None or world.size == 1 else world.gather_rows(mine)
    texts: list[list[int]] = [[] for _ in range(count)]
    for row in np.concatenate(every).tolist():
        texts[row[0]] = [token for token in row[1:] if token != NONE]
    return texts

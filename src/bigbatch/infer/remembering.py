"""Texts of models with a memory (`model.memory`), piece by piece: each token behind what training would have shown it.

Token number n of a document is predicted in the piece that covers it, behind the tokens of that piece and `memory`
tokens in front of it, which are read anew at each border: keys and values that a cache still has from before know of
what lies further back, and training never shows that.

    pieces of 4, memory 2:  n 1 2 3 | 4 5 6 | 7 8 9         written behind tokens  0 … n-1 | 1 … n-1 | 4 … n-1

So a text may be as long as one likes, and costs `memory` read tokens more a piece. Texts of different lengths reach
their borders at different steps: in the first round each is written as far as its own border, from then on all stand
at one together.

Shapes: B texts, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bigbatch.data.tokens import as_table
from bigbatch.infer.decoding import NONE, Batch, Marks, Seen, batch_of_prompts, until_their_ends
from bigbatch.infer.prompts import ids_alone
from bigbatch.tasks.base import Task

Write = Callable[[Batch, Seen | None], np.ndarray]
"""`write(batch, seen)`: (B, L) tokens of a batch, as `decoding.by_transformers` has them."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How training cuts a document (`data.blocks`)."""

    piece_tokens: int
    """Of a piece; two of a document share one token."""
    memory_tokens: int
    """That are read in front of a piece."""

    @property
    def most_read(self) -> int:
        """Tokens that a text is written behind, and those written, at most."""
        return self.memory_tokens + self.piece_tokens

    def begin(self, tokens: int) -> int:
        """The first token that is read to write the next one of a document.

        Example:
            >>> [Pieces(piece_tokens=4, memory_tokens=2).begin(tokens) for tokens in (1, 3, 4, 6, 7)]
            [0, 0, 1, 1, 4]
        """
        step = self.piece_tokens - 1
        return max(0, (tokens - 1) // step * step - self.memory_tokens)

    def room(self, tokens: int) -> int:
        """So many more are written in the same piece.

        Example:
            >>> [Pieces(piece_tokens=4, memory_tokens=2).room(tokens) for tokens in (1, 3, 4, 6, 7)]
            [3, 1, 3, 1, 3]
        """
        step = self.piece_tokens - 1
        return step - (tokens - 1) % step


def pieces_of(task: Task) -> Pieces | None:
    """How a model of this task reads what it goes on behind; None: all that stands there."""
    length, memory = task.facts.block_length, task.facts.memory
    return Pieces(piece_tokens=length, memory_tokens=memory) if memory and length else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Begun:
    """Texts that are written together."""

    prompts_B: Sequence[np.ndarray]
    """Token ids of each."""
    rows_B: np.ndarray
    """(B,) number of each row, which what is drawn is a function of."""
    most_B: np.ndarray
    """(B,) int64: tokens that each may get."""
    marks: Marks


def piece_by_piece(
    begun: Begun, pieces: Pieces, device: torch.device, write: Write, seen: Seen | None, *, even: bool = False
) -> np.ndarray:
    """(B, L) int64 tokens of each text, its end mark included, and `NONE` behind them.

    Args:
        begun: what is written.
        pieces: of the model.
        device: of the model.
        write: writes a batch.
        seen: as `decoding.by_transformers` has it, of all texts.
        even: take the same steps whatever is written, as ranks that share a model have to.
    """
    texts: list[list[int]] = [prompt.tolist() for prompt in begun.prompts_B]
    firsts, most, ends = [len(text) for text in texts], begun.most_B.tolist(), begun.marks.ends
    over = np.zeros(len(texts), bool)
    while True:
        left = [most[row] + firsts[row] - len(texts[row]) for row in range(len(texts))]
        going = [row for row in range(len(texts)) if left[row] > 0 and (even or not over[row])]
        if not going:
            break
        rooms_A = np.array([min(left[row], pieces.room(len(texts[row]))) for row in going], np.int64)
        read = [ids_alone(texts[row][pieces.begin(len(texts[row])) :]) for row in going]
        batch = batch_of_prompts(as_table(read), np.arange(len(going)), rooms_A, begun.marks, device)
        done_A = np.array([len(texts[row]) - firsts[row] for row in going], np.int64)
        batch = batch.written_before(begun.rows_B[going], done_A)

        def look(ids_AL: np.ndarray, going: list[int] = going, rooms_A: np.ndarray = rooms_A) -> np.ndarray:
            assert seen is not None
            now, _ = until_their_ends(ids_AL, rooms_A, ends)
            written = [text[first:] for text, first in zip(texts, firsts, strict=True)]
            for row, ids in zip(going, now.tolist(), strict=True):
                written[row] = [*written[row], *(token for token in ids if token != NONE)]
            found = seen(_side_by_side(written))
            if found is not None:
                over[:] |= found
            return over[going]

        ids_AL = write(batch, None if seen is None else look)
        _, ended_A = until_their_ends(ids_AL, rooms_A, ends)
        for row, ids, room, ended in zip(going, ids_AL.tolist(), rooms_A.tolist(), ended_A, strict=True):
            texts[row] += ids[:room]
            over[row] |= bool(ended)
    return _side_by_side([text[first:] for text, first in zip(texts, firsts, strict=True)])


def _side_by_side(texts: Sequence[Sequence[int]]) -> np.ndarray:
    found_BL = np.full((len(texts), max(map(len, texts), default=0)), NONE, np.int64)
    for row, text in zip(found_BL, texts, strict=True):
        row[: len(text)] = text
    return found_BL

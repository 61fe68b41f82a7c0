"""Sequences of nucleotides read from either strand: reversed, each token by its complement.

Which samples are turned is a pure function of (seed, epoch, sample), never of how a batch is cut::

    state(sample) = splitmix64 chain of (seed, stream, epoch, sample); turned where its first draw is below the share

Marks of the tokenizer stay where they are; what stands between them is turned as a whole.

Shapes: B samples, T tokens, U units, V ids of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bigbatch.data.order import fractions_at, sample_states
from bigbatch.errors import ModelError, Problem, RecipeError
from bigbatch.model.letters import complement_ids
from bigbatch.protocols import Tokenizer
from bigbatch.samples import TOKENS, UNITS, Stream, Table, starts_of

STREAM = 0x57D5
"""Stream of random numbers: apart from the order's and the masks', which start from the same seed."""


def complements_of(tokenizer: Tokenizer | None, key: str = "task.reverse_complement") -> np.ndarray:
    """(V,) int64 of `complement_ids`.

    Args:
        tokenizer: of the run.
        key: of the recipe, for the message.

    Raises:
        ModelError: there is no tokenizer, or it is none of nucleotides.
    """
    vocabulary = getattr(tokenizer, "get_vocab", None)
    if vocabulary is None:
        raise ModelError(
            f"{key}: rows of token ids do not say which tokens are nucleotides; give sequences as text"
        )
    try:
        found = complement_ids(dict(vocabulary()))
    except ModelError as error:
        raise ModelError(
            f"{key}: {error}; it needs tokens of nucleotides, such as model.tokenizer: kmers:6"
        ) from None
    if not (found >= 0).any():
        raise ModelError(f"{key}: no token of the tokenizer is a nucleotide")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None:
        found[unknown] = unknown
    return found


def check_share(share: float | None) -> None:
    """Whether `task.reverse_complement` is a share.

    Raises:
        RecipeError: it is not.
    """
    if share is not None and not 0 <= share <= 1:
        what = f"found {share:g}; expected a share from 0 to 1"
        raise RecipeError([Problem(where="recipe", key="task.reverse_complement", what=what)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Strands:
    """How often samples are turned, and what becomes of their tokens."""

    share: float
    complements_V: np.ndarray
    """(V,) int64 of `complements_of`; -1: a token that stays where it is."""
    by_token: bool = False
    """Whether the units predict the ids of the tokens at which they stand."""

    def turned(self, table: Table, rows_B: np.ndarray, states_B: np.ndarray) -> Table:
        """Rows of a table, some of them as the other strand reads them.

        Args:
            table: the split.
            rows_B: (B,) row numbers.
            states_B: (B,) uint64, of each sample.
        """
        piece = table.take(rows_B).load()
        tokens, chosen_B = piece[TOKENS], fractions_at(states_B, np.zeros(1, np.int64)) < self.share
        ids_T, lengths_B = np.array(tokens.columns["ids"]), tokens.lengths
        moves_T = (self.complements_V[ids_T] >= 0) & np.repeat(chosen_B, lengths_B)
        from_T = np.arange(len(ids_T))
        sample_M = np.repeat(np.arange(len(rows_B)), lengths_B)[moves_T]
        places_M = np.flatnonzero(moves_T)
        # Of the places that move, sample by sample, the last takes the first's token.
        counts_B = np.bincount(sample_M, minlength=len(rows_B))
        starts_M = starts_of(counts_B)[sample_M]
        rank_M = np.arange(len(places_M)) - starts_M
        from_T[places_M] = places_M[starts_M + counts_B[sample_M] - 1 - rank_M]
        new_T = ids_T[from_T]
        new_T[moves_T] = self.complements_V[new_T[moves_T]]
        streams: dict[str, Stream] = {TOKENS: replace(tokens, columns={**tokens.columns, "ids": new_T})}
        if self.by_token:  # they move with their tokens, and stay in order
            units, to_T = piece[UNITS], np.empty_like(from_T)
            to_T[from_T] = np.arange(len(from_T))
            first_U = np.repeat(starts_of(lengths_B), units.lengths)
            reads_U = to_T[first_U + units.columns["at"]]
            order_U = np.argsort(reads_U)
            columns = {name: column[order_U] for name, column in units.columns.items()}
            columns["at"] = (reads_U[order_U] - first_U).astype(np.int32)
            columns["values"] = new_T[reads_U[order_U]].astype(columns["values"].dtype)
            streams[UNITS] = replace(units, columns=columns)
        return piece.replaced(**streams)


def strand_states(seed: int, epochs_B: np.ndarray, rows_B: np.ndarray) -> np.ndarray:
    """(B,) uint64 from which each sample's draw is made.

    Args:
        seed: `seed.data`.
        epochs_B: (B,) int64, from 0.
        rows_B: (B,) int64 numbers of the samples in their table.
    """
    return sample_states(seed, STREAM, epochs_B, rows_B)

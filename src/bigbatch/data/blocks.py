"""The samples that language models are trained in, cut out of tokenised documents. Causal ones:

    documents:  d0 d1 d2 d3 d4 d5 d6 | e0 e1        fixed (3):  d0 d1 d2 | d3 d4 d5 | d6 e0 e1
    pieces (4): d0 d1 d2 d3 | d3 d4 d5 d6 | e0 e1

Position i predicts token i + 1. Pieces of a document overlap by one token, so that each token but its first is
predicted exactly once. Blocks do not overlap: the first token of a block is not predicted. Masked language models have
blocks between the marks that stand around a text (`framed_blocks`).

Shapes: S samples, T tokens, U units (predicted tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bigbatch.data.item_windows import stretches
from bigbatch.errors import DataError
from bigbatch.samples import MEMORY, TOKENS, UNITS, Stream, Table, offsets_of, starts_of


def piece_bounds(table: Table, most_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and end token of each piece of each document, and the document's number (S,) int64 each.

    Documents of one token predict nothing and have no piece.
    """
    starts_D, ends_D = table.token_offsets[:-1], table.token_offsets[1:]
    pieces_D = np.maximum(ends_D - starts_D - 1, 0) + most_tokens - 2
    pieces_D = pieces_D // (most_tokens - 1)  # ceil((length - 1) / (most_tokens - 1))
    owners_S = np.repeat(np.arange(len(table)), pieces_D)
    number_S = np.arange(len(owners_S)) - np.repeat(starts_of(pieces_D), pieces_D)
    firsts_S = starts_D[owners_S] + number_S * (most_tokens - 1)
    return firsts_S, np.minimum(firsts_S + most_tokens, ends_D[owners_S]), owners_S


def block_bounds(table: Table, most_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """First and end token of each block of all documents joined (S,) int64 each; the last may be shorter."""
    total = int(table.token_offsets[-1])
    firsts_S = np.arange(0, total - 1, most_tokens, dtype=np.int64)
    return firsts_S, np.minimum(firsts_S + most_tokens, total)


def next_token_table(table: Table, firsts_S: np.ndarray, ends_S: np.ndarray, memory_tokens: int = 0) -> Table:
    """Stretches of a table's tokens as samples in which every token predicts the next.

    Args:
        table: documents; a unit a token, as `CausalLM.encode` gives them.
        firsts_S: first token of each sample, in the flat array.
        ends_S: end of each sample; at least two tokens after its first.
        memory_tokens: so many tokens in front of each sample, of the document of its first token, are read and not
            predicted; fewer where the document has none.

    Raises:
        DataError: there is no sample.
    """
    if not len(firsts_S):
        raise DataError("no document has two tokens: there is nothing to predict")
    lengths_S = ends_S - firsts_S
    if memory_tokens:
        starts_S = table.token_offsets[np.searchsorted(table.token_offsets, firsts_S, side="right") - 1]
        return _remembering(table, np.maximum(starts_S, firsts_S - memory_tokens), firsts_S, ends_S)
    # Stretches that lie one behind the other, from the first token to the last, need no copy.
    joined = bool((firsts_S[1:] == ends_S[:-1]).all()) and firsts_S[0] == 0 and ends_S[-1] == len(table.ids)
    tokens_T = slice(None) if joined else stretches(firsts_S, lengths_S)
    targets_U = stretches(firsts_S + 1, lengths_S - 1)
    reads_U = targets_U - 1 - np.repeat(firsts_S, lengths_S - 1)
    units = {name: column[targets_U] for name, column in table[UNITS].columns.items()}
    return table.replaced(
        tokens=replace(
            table[TOKENS],
            columns={name: column[tokens_T] for name, column in table[TOKENS].columns.items()},
            offsets=offsets_of(lengths_S),
        ),
        units=Stream(
            columns=units | {"at": reads_U.astype(np.int32), "values": table.ids[targets_U]},
            offsets=offsets_of(lengths_S - 1),
        ),
    )


def _remembering(table: Table, froms_S: np.ndarray, firsts_S: np.ndarray, ends_S: np.ndarray) -> Table:
    """`next_token_table` of stretches that begin before what they predict; a column says which tokens those are."""
    lengths_S, targets_S = ends_S - froms_S, ends_S - firsts_S - 1
    tokens_T = stretches(froms_S, lengths_S)
    targets_U = stretches(firsts_S + 1, targets_S)
    columns = {name: column[tokens_T] for name, column in table[TOKENS].columns.items()}
    units = {name: column[targets_U] for name, column in table[UNITS].columns.items()}
    at_U = (targets_U - 1 - np.repeat(froms_S, targets_S)).astype(np.int32)
    return table.replaced(
        tokens=replace(
            table[TOKENS],
            columns={**columns, MEMORY: tokens_T < np.repeat(firsts_S, lengths_S)},
            offsets=offsets_of(lengths_S),
        ),
        units=Stream(
            columns={**units, "at": at_U, "values": table.ids[targets_U]}, offsets=offsets_of(targets_S)
        ),
    )


def framed_blocks(
    table: Table, most_tokens: int, before: Sequence[int], behind: Sequence[int], group: str
) -> Table:
    """All documents joined, without what their tokenizer put around them, in blocks that have it around themselves.

    Args:
        table: documents; a unit for each token that may be predicted.
        most_tokens: of a block, its frame included; the last block may be shorter.
        before: ids in front of a text.
        behind: ids behind a text.
        group: name of the extra that holds, for each unit, the place of its word's first token; a word that a block
            cuts is two.

    Raises:
        DataError: blocks without room.
    """
    room = most_tokens - len(before) - len(behind)
    if room < 1:
        raise DataError(
            f"data.max_length: found {most_tokens}; a block has room for a token from {most_tokens - room + 1} on"
        )
    kept_T = _unframed(table, before, behind)
    total = int(kept_T.sum())
    if not total:
        return table
    joined_T = np.cumsum(kept_T) - 1  # place of each kept token among them
    starts_U = np.repeat(table.token_offsets[:-1], np.diff(table.unit_offsets))
    places_U = joined_T[starts_U + table.reads]
    firsts_S = np.arange(0, total, room, dtype=np.int64)
    sizes_S = np.minimum(firsts_S + room, total) - firsts_S
    lengths_S = sizes_S + len(before) + len(behind)
    offsets = offsets_of(lengths_S)
    ids = np.empty(int(offsets[-1]), table.ids.dtype)
    for place, token in enumerate(before):
        ids[offsets[:-1] + place] = token
    for place, token in enumerate(behind):
        ids[offsets[1:] - len(behind) + place] = token
    ids[stretches(offsets[:-1] + len(before), sizes_S)] = np.asarray(table.ids)[kept_T]
    blocks_U = places_U // room
    extras = {name: np.asarray(values) for name, values in table.extras.items()}
    if group in extras:
        words_U = np.maximum(joined_T[starts_U + extras[group].astype(np.int64)], blocks_U * room)
        extras[group] = (words_U - blocks_U * room + len(before)).astype(np.float32)
    return Table.of_tokens(
        ids=ids,
        token_offsets=offsets,
        segments=None if table.segments is None else np.zeros(len(ids), np.int8),
        reads=(places_U - blocks_U * room + len(before)).astype(np.int32),
        unit_offsets=offsets_of(np.bincount(blocks_U, minlength=len(firsts_S))),
        values=table.values,
        weights=table.weights,
        extras=extras,
        truncated_samples=table.truncated_samples,
    )


def _unframed(table: Table, before: Sequence[int], behind: Sequence[int]) -> np.ndarray:
    """(tokens,) bool: what is left of documents without the frame, where they have it."""
    ids, starts_D, ends_D = np.asarray(table.ids), table.token_offsets[:-1], table.token_offsets[1:]
    kept_T = np.ones(len(ids), bool)
    whole_D = ends_D - starts_D >= len(before) + len(behind)
    framed_D = whole_D.copy()
    places = [(starts_D + place, token) for place, token in enumerate(before)]
    places += [(ends_D - len(behind) + place, token) for place, token in enumerate(behind)]
    for place_D, token in places:
        framed_D[whole_D] &= ids[place_D[whole_D]] == token
    for place_D, _ in places:
        kept_T[place_D[framed_D]] = False
    return kept_T

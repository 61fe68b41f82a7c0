"""Attention over a pack in pieces that stay in the cache: a group's all pairs, or by a pattern those that are seen."""

from __future__ import annotations

from torch import Tensor

from bigbatch.model.chunked import chunked_attention
from bigbatch.model.grouped import Spread, dense_group, grouped_attention
from bigbatch.model.layout import Attention, Group, ReadGroup
from bigbatch.model.sparse import sparse_attention


def chunked_group(spread: Spread, group: Group, asking: Group | ReadGroup, asked: Attention) -> Tensor:
    """A group in pieces that stay in the cache; of a pattern, those pieces in which something is seen.

    Args:
        spread: queries, keys and values of the group.
        group: the keys.
        asking: the queries.
        asked: by the layer.
    """
    pattern = asked.pattern
    if pattern is None or pattern.covers(group.longest) or isinstance(asking, ReadGroup):
        return dense_group(spread, group, asking, asked, inner=chunked_attention)
    real_BK = None if group.real_BK is None else group.real_BK[:, 0, 0]
    return sparse_attention(*spread, real_BK, asked.causal, asked.dropout, asked.scaling, pattern)


def chunked_groups(query: Tensor, key: Tensor, value: Tensor, asked: Attention) -> Tensor:
    """`grouped_attention` in pieces.

    Args:
        query, key, value, asked: as `grouped_attention` has them; so is the result.
    """
    return grouped_attention(query, key, value, asked, attend=chunked_group)

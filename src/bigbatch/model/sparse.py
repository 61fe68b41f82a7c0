"""Attention by a pattern in tiles: pairs that no token sees are never computed, and no scores are kept.

The pairs of a sample are divided into parts in which the seen ones lie close together: a band of neighbouring blocks;
for `strided` the tokens of each remainder by themselves, side by side (the transposition of Child et al. 2019); columns
that all see; rows that see all. Each part is worked on tile by tile, in pieces that stay in the cache. Sums are joined
as in flash attention (Dao et al. 2022): a running maximum and a running sum for each query; the backward pass computes
probabilities anew from those, and draws the same dropout factors from the same seed. So time is that of the seen pairs,
and memory that of the tokens.

Shapes: S samples, H heads, N = S x H, n places of a sample (the longest), P of them with padding, W width of a head,
R tiles of t queries and u keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from bigbatch.model.chunked import keep_factors
from bigbatch.model.grouped import expanded
from bigbatch.model.patterns import Pattern

_PIECE_BYTES = 2**20
"""Scores that are worked on at a time: they fit a core's second-level cache together with what is made of them."""
_DEVICE_PIECE_BYTES = 2**28
"""The same on an accelerator, where a piece has to be large enough to keep it busy."""
_TILE = 64
"""Queries of a tile at most: of a band of w keys, w / (w + 64) of what is computed is seen."""

View = Callable[[Tensor], Tensor]


class Context(torch.autograd.function.FunctionCtx):
    """What the backward pass is left."""

    asked: tuple[Pattern, bool, float, float]
    padded: bool
    saved_tensors: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Tiles of one shape that lie regularly. Views are of (N, P, …) and give (N, R, t or u, …)."""

    queries: View
    keys: View
    """May overlap from tile to tile: to read."""
    add: Callable[[Tensor, int, Tensor], None]
    """`add(sums (N, P, W), first tile, (N, r, u, W))`: bring what belongs to keys back to their places."""
    tiles: int
    hidden: Callable[[int, int], Tensor]
    """(tiles from, to) -> (r or 1, t, u) bool: pairs that are not seen, or that an earlier part has."""
    pairs: int
    """t x u."""
    places: int
    """How many the part needs, some of them padding."""
    step: int
    """Most tiles at a time."""


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    real: Tensor | None,
    causal: bool,
    dropout: float,
    scaling: float | None,
    pattern: Pattern,
) -> Tensor:
    """dropout(softmax(scaling * q k^T where q sees k)) v of samples of the same number of places.

    Args:
        query: (S, H, n, W).
        key: (S, H, n, W); query heads may share key heads, which are then fewer.
        value: as the key, of any width.
        real: (S, n) bool: places that hold a token; None: all.
        causal: whether none sees what comes behind it.
        dropout: probability, in steps of 1/65536.
        scaling: None: 1 / sqrt(W).
        pattern: which token sees which.

    Returns:
        (S, H, n, W); zeros where a query sees nothing.
    """
    key, value = expanded(query, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    seed = torch.empty((), dtype=torch.int64).random_(2**62) if dropout else None
    return _Sparse.apply(query, key, value, real, seed, pattern, causal, dropout, scale)  # pyright: ignore


class _Sparse(torch.autograd.Function):
    """Saves queries, keys, values, the result, and a number for each query."""

    @staticmethod
    def forward(
        ctx: Context,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        real: Tensor | None,
        seed: Tensor | None,
        pattern: Pattern,
        causal: bool,
        dropout: float,
        scale: float,
    ) -> Tensor:
        work = _Work(query, key, value, real, pattern, causal, scale)
        out_NPW = work.v.new_zeros(work.v.shape, dtype=work.wide)
        most_NP1 = out_NPW.new_full((*out_NPW.shape[:2], 1), -torch.inf)
        sum_NP1 = torch.zeros_like(most_NP1)
        for part in work.parts:
            laid = work.laid_out(part)
            mosts, sums, outs = map(part.queries, (most_NP1, sum_NP1, out_NPW))
            for piece in work.pieces(part):
                kept = laid.scores(piece)
                most, total, out = mosts[piece.at], sums[piece.at], outs[piece.at]
                new = torch.maximum(most, kept.amax(-1, keepdim=True))
                safe = new.masked_fill(new == -torch.inf, 0.0)  # a query that has seen nothing yet
                kept.sub_(safe).exp_()
                faded = most.sub(safe).exp_()
                total.mul_(faded).add_(kept.sum(-1, keepdim=True))
                if seed is not None:
                    kept.mul_(_factors(kept, dropout, seed, piece.number))
                out.mul_(faded).add_(_product(kept.to(laid.v.dtype), laid.v[piece.at]))
                most.copy_(new)
        out_NPW /= sum_NP1.clamp_min(torch.finfo(work.wide).tiny)
        # A query that sees nothing gets probabilities of 0.
        level_NP1 = torch.where(sum_NP1 > 0, most_NP1 + sum_NP1.log(), torch.inf)
        result = out_NPW[:, : query.shape[2]].unflatten(0, query.shape[:2]).to(query.dtype)
        further = [each for each in (real, seed) if each is not None]
        ctx.save_for_backward(query, key, value, result, level_NP1, *further)
        ctx.padded = real is not None
        ctx.asked = pattern, causal, dropout, scale
        return result

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, level_NP1, *further = ctx.saved_tensors
        real = further.pop(0) if ctx.padded else None
        seed = further.pop(0) if further else None
        pattern, causal, dropout, scale = ctx.asked
        work = _Work(query, key, value, real, pattern, causal, scale)
        grad_NPW = work.padded(grads[0].to(value.dtype).flatten(0, 1))
        mean = (grads[0].to(work.wide) * result.to(work.wide)).sum(-1, keepdim=True)
        mean_NP1 = work.padded(mean.flatten(0, 1))
        q_grad, k_grad, v_grad = (torch.zeros_like(x, dtype=work.wide) for x in (work.q, work.k, work.v))
        for part in work.parts:
            laid = work.laid_out(part)
            out_grads, levels, means, q_grads = map(part.queries, (grad_NPW, level_NP1, mean_NP1, q_grad))
            for piece in work.pieces(part):
                at, heads, first = piece.at, piece.heads, piece.tiles.start
                kept = laid.scores(piece).sub_(levels[at]).exp_()
                factors = None if seed is None else _factors(kept, dropout, seed, piece.number)
                dropped = kept if factors is None else kept * factors
                grad = out_grads[at]
                part.add(v_grad[heads], first, _product(dropped.to(grad.dtype).transpose(2, 3), grad))
                moved = _product(grad, laid.v[at].transpose(2, 3)).to(work.wide)
                moved = moved if factors is None else moved.mul_(factors)
                moved = moved.sub_(means[at]).mul_(kept).to(query.dtype)
                q_grads[at].add_(_product(moved, laid.k[at]))
                part.add(k_grad[heads], first, _product(moved.transpose(2, 3), laid.q[at]))
        q_grad.mul_(scale)  # queries were scaled before they met the keys
        found = (
            x[:, : like.shape[2]].unflatten(0, like.shape[:2]).to(like.dtype)
            for x, like in ((q_grad, query), (k_grad, key), (v_grad, value))
        )
        return (*found, None, None, None, None, None, None)


@dataclass(frozen=True)
class _Piece:
    """What is worked on at a time."""

    number: int
    """Among all pieces of all parts; dropout's factors follow from it."""
    heads: slice
    """Of the matrices of N."""
    tiles: slice

    @property
    def at(self) -> tuple[slice, slice]:
        """Place in (N, R, …)."""
        return self.heads, self.tiles


@dataclass(frozen=True)
class _LaidOut:
    """Queries, keys and values as the tiles of a part: (N, R, t or u, W)."""

    part: _Part
    q: Tensor
    k: Tensor
    v: Tensor
    real: Tensor | None
    """(S or 1, R, 1, u) bool: keys that are tokens; None: all."""
    partly: tuple[bool, ...]
    """Of each tile, whether some key is none."""
    heads: int

    def scores(self, piece: _Piece) -> Tensor:
        """(N, r, t, u), -inf where nothing is seen, or where an earlier part has seen it."""
        found = _product(self.q[piece.at], self.k[piece.at].transpose(2, 3))
        found = found if found.dtype is torch.float64 else found.float()
        hidden = self.part.hidden(piece.tiles.start, piece.tiles.stop)[None]  # (1, r or 1, t, u)
        if self.real is not None and any(self.partly[piece.tiles]):
            real = self.real[:, piece.tiles]
            if real.shape[0] > 1:
                real = real[
                    torch.arange(piece.heads.start, piece.heads.stop, device=real.device) // self.heads
                ]
            hidden = hidden | ~real
        return found.masked_fill_(hidden, -torch.inf)


class _Work:
    """Queries, keys and values with as many places as the tiles need, and the pieces to go through."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        real: Tensor | None,
        pattern: Pattern,
        causal: bool,
        scale: float,
    ) -> None:
        """Pad; nothing is computed yet.

        Args:
            query: as of `sparse_attention`.
            key: with as many heads.
            value: with as many heads.
            real: as of `sparse_attention`.
            pattern: as of `sparse_attention`.
            causal: as of `sparse_attention`.
            scale: of the scores.
        """
        self.heads, places = query.shape[1:3]
        self.wide = torch.promote_types(query.dtype, torch.float32)
        self.parts = _parts(pattern, places, causal, query.device)
        self._places = max(part.places for part in self.parts)
        self.q = self.padded((query * scale).flatten(0, 1))
        self.k, self.v = (self.padded(x.flatten(0, 1)) for x in (key, value))
        if real is None:
            real = torch.ones(1, places, dtype=torch.bool, device=query.device)
        self._real_SP1 = self.padded(real[..., None])
        self._before = 0

    def padded(self, x_NnW: Tensor) -> Tensor:
        """(N, n, …) -> (N, P, …) with zeros behind."""
        return functional.pad(x_NnW, (0, 0, 0, self._places - x_NnW.shape[1]))

    def laid_out(self, part: _Part) -> _LaidOut:
        """All that a part reads, as its tiles."""
        real = part.keys(self._real_SP1).transpose(2, 3)
        partly = tuple((~real.all(-1).all(0)[:, 0]).tolist())
        k, v = part.keys(self.k), part.keys(self.v)
        return _LaidOut(part, part.queries(self.q), k, v, real if any(partly) else None, partly, self.heads)

    def pieces(self, part: _Part) -> Iterator[_Piece]:
        """All of a part, always in the same order."""
        most = _PIECE_BYTES if self.q.device.type == "cpu" else _DEVICE_PIECE_BYTES
        pairs, matrices = part.pairs * self.wide.itemsize, self.q.shape[0]
        heads = max(1, min(matrices, most // pairs))
        step = max(1, min(part.step, most // (pairs * heads)))
        for first in range(0, part.tiles, step):
            for head in range(0, matrices, heads):
                tiles = slice(first, min(first + step, part.tiles))
                yield _Piece(self._before, slice(head, min(head + heads, matrices)), tiles)
                self._before += 1


def _product(a_NRXY: Tensor, b_NRYZ: Tensor) -> Tensor:
    """Products of the last two axes; one call for all."""
    n, r = a_NRXY.shape[:2]
    found = torch.bmm(a_NRXY.reshape(n * r, *a_NRXY.shape[2:]), b_NRYZ.reshape(n * r, *b_NRYZ.shape[2:]))
    return found.unflatten(0, (n, r))


def _factors(like: Tensor, dropout: float, seed: Tensor, number: int) -> Tensor:
    """Dropout's factors of a piece: the same ones whenever it is asked."""
    generator = torch.Generator(like.device).manual_seed((int(seed) + number * 0x9E3779B97F4A7C15) % 2**63)
    if like.device.type == "cpu":
        return keep_factors(like.shape, dropout, torch.empty_like(like), generator)
    drawn = torch.rand(like.shape, device=like.device, generator=generator)
    return (drawn >= dropout).to(like.dtype).div_(max(1 - dropout, torch.finfo(like.dtype).tiny))


# ---------------------------------------------------------------- parts


def _parts(pattern: Pattern, n: int, causal: bool, device: torch.device) -> list[_Part]:
    """The parts of a pattern over n places; no pair is in two of them."""
    found = [_band(pattern, n, causal, device)]
    if pattern.stride and n > pattern.stride:
        found.append(_remainders(pattern, n, causal, device))
    columns = _column_places(pattern, n, device)
    if len(columns):
        found.append(_columns(pattern, n, causal, columns))
    if pattern.first and not causal:
        found.append(_rows(pattern, n, device))
    return found


def _band(pattern: Pattern, n: int, causal: bool, device: torch.device) -> _Part:
    """Blocks of t queries, each with the blocks of keys around it."""
    t = pattern.block or max(8, min(_TILE, pattern.window // 4))
    t = min(t, n)
    # With a block of its own each query stays in it; t is that block, or all there is.
    before = 0 if pattern.block else -(-min(pattern.window - 1, n) // t)
    behind = 0 if causal else before
    tiles = -(-n // t)
    width = (before + 1 + behind) * t
    q = torch.arange(t, device=device)[:, None]
    k = torch.arange(-before * t, (1 + behind) * t, device=device)
    # Blocks begin at multiples of t, so that all tiles are alike; places in front of the sample are padding.
    far = (q - k).abs() >= (pattern.block or pattern.window)
    hidden = (far | (k > q) if causal else far)[None]

    def keys(x_NPW: Tensor) -> Tensor:
        wide = functional.pad(x_NPW[:, : tiles * t], (0, 0, before * t, behind * t))
        return wide.unfold(1, width, t).transpose(2, 3)

    def add(sums_NPW: Tensor, first: int, found: Tensor) -> None:
        blocks = found.unflatten(2, (before + 1 + behind, t))
        into = sums_NPW[:, : tiles * t].unflatten(1, (tiles, t))
        for step in range(before + 1 + behind):
            low, high = first + step - before, first + step - before + found.shape[1]
            skipped, left = max(0, -low), max(0, high - tiles)
            if skipped + left < found.shape[1]:
                into[:, low + skipped : high - left] += blocks[:, skipped : found.shape[1] - left, step]

    return _Part(
        queries=lambda x: x[:, : tiles * t].unflatten(1, (tiles, t)),
        keys=keys,
        add=add,
        tiles=tiles,
        hidden=lambda _first, _end: hidden,
        pairs=t * width,
        places=tiles * t,
        step=tiles,
    )


def _remainders(pattern: Pattern, n: int, causal: bool, device: torch.device) -> _Part:
    """The tokens of each remainder of the stride, side by side: (N, remainders, places of each, W)."""
    s = pattern.stride
    m = -(-n // s)
    at = torch.arange(m, device=device)
    near = (at[:, None] - at).abs() * s < pattern.window
    hidden = (near | (at > at[:, None]) if causal else near)[None]

    def view(x_NPW: Tensor) -> Tensor:
        return x_NPW[:, : m * s].unflatten(1, (m, s)).transpose(1, 2)

    def add(sums_NPW: Tensor, first: int, found: Tensor) -> None:
        view(sums_NPW)[:, first : first + found.shape[1]].add_(found)

    return _Part(
        queries=view,
        keys=view,
        add=add,
        tiles=s,
        hidden=lambda _first, _end: hidden,
        pairs=m * m,
        places=m * s,
        step=s,
    )


def _column_places(pattern: Pattern, n: int, device: torch.device) -> Tensor:
    """Ascending places of the keys that all see."""
    at = torch.arange(n, device=device)
    wanted = at < pattern.first
    if pattern.summary:
        wanted = wanted | (at % pattern.block >= pattern.block - pattern.summary)
    return at[wanted]


def _columns(pattern: Pattern, n: int, causal: bool, at_C: Tensor) -> _Part:
    """Blocks of queries with all of these keys."""
    t = min(256, n)
    tiles = -(-n // t)

    def hidden(first: int, end: int) -> Tensor:
        q = torch.arange(first * t, end * t, device=at_C.device)[:, None]
        earlier = pattern.near(q, at_C)
        if pattern.stride:
            earlier |= (q - at_C) % pattern.stride == 0
        if causal:
            earlier |= at_C > q
        return earlier.unflatten(0, (end - first, t))

    def add(sums_NPW: Tensor, _first: int, found: Tensor) -> None:
        sums_NPW[:, at_C] += found.sum(1)

    return _Part(
        queries=lambda x: x[:, : tiles * t].unflatten(1, (tiles, t)),
        keys=lambda x: x[:, at_C][:, None].expand(-1, tiles, -1, -1),
        add=add,
        tiles=tiles,
        hidden=hidden,
        pairs=t * len(at_C),
        places=tiles * t,
        step=1,
    )


def _rows(pattern: Pattern, n: int, device: torch.device) -> _Part:
    """The first queries with all keys."""
    rows = min(pattern.first, n)
    q, k = torch.arange(rows, device=device)[:, None], torch.arange(n, device=device)
    hidden = (replace(pattern, first=0).seen(q, k) | (k < pattern.first))[None]

    def add(sums_NPW: Tensor, _first: int, found: Tensor) -> None:
        sums_NPW[:, :n] += found[:, 0]

    return _Part(
        queries=lambda x: x[:, None, :rows],
        keys=lambda x: x[:, None, :n],
        add=add,
        tiles=1,
        hidden=lambda _first, _end: hidden,
        pairs=rows * n,
        places=n,
        step=1,
    )

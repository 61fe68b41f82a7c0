"""From a trace to sentences: what nobody reads, what is computed twice, what waits, what is copied and cast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from bigbatch.graph.places import Places
from bigbatch.graph.trace import Call, Operation, Trace
from bigbatch.plan.graph import Cost, Finding, Kind
from bigbatch.samples import MicroBatch
from bigbatch.units import show_bytes, show_flops

# fmt: off
_FILLS = frozenset((
    "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full",
    "fill_", "zero_", "scalar_tensor",
))
_COPIES = frozenset((
    "clone", "copy_", "cat", "stack", "index_select", "index_copy_", "constant_pad_nd", "repeat",
))
# fmt: on
_COLLECTED = {
    "hidden_states": "every block's hidden states are collected and handed out (output_hidden_states)",
    "attentions": "attention weights are computed in full and handed out (output_attentions)",
    "past_key_values": "keys and values are kept in a cache for generation (use_cache)",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A trace with what is needed to read it."""

    trace: Trace
    places: Places
    needed: set[int]
    """Operations that the loss or the backward pass depends on."""
    micro_batch: MicroBatch
    module: nn.Module
    got_gradient: frozenset[str]
    """Parameters that the backward pass reached."""
    zero_gradient: frozenset[str]
    """Of those, the ones whose gradient is exactly zero."""
    timed: bool
    """Whether the seconds of operations mean anything."""

    def call(self, operation: Operation) -> Call | None:
        """Whose work it is."""
        return self.trace.calls[operation.call] if operation.call >= 0 else None

    def place(self, call: Call | None) -> str:
        """`block 3 attention.self`."""
        return f"{self.places.part(call)} {self.places.inside(call)}".strip()


def all_findings(seen: Seen, cost: Cost) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """The findings, those first that save most; and what the figures leave out.

    Args:
        seen: the trace.
        cost: of the whole micro-batch.
    """
    unread, notes = _unread(seen, cost)
    found = [
        *unread,
        *_unused(seen, cost),
        *_repeated(seen),
        *_padding(seen, cost),
        *_collected(seen),
        *_waits(seen),
        *_parameters(seen),
        *_round_trips(seen),
        *_totals(seen, "copy", "copies", lambda one: one.name in _COPIES or _moves(one)),
        *_totals(seen, "fill", "fills with a constant", lambda one: one.name in _FILLS),
        *_totals(seen, "cast", "changes of dtype", lambda one: one.cast is not None),
    ]
    notes += [
        f"{count} calls of {name} have no FLOP formula and count as none"
        for name, count in sorted(seen.trace.uncounted.items())
    ]
    found.sort(key=lambda one: (-one.flops, -one.moved_bytes, one.kind, one.where))
    return tuple(found), tuple(notes)


@dataclass
class _Sum:
    """Operations put together."""

    flops: float = 0.0
    moved_bytes: float = 0.0
    seconds: float = 0.0
    count: int = 0
    names: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, operation: Operation, name: str, share: float = 1.0) -> None:
        moved = operation.read_bytes + operation.written_bytes
        self.flops += share * operation.flops
        self.moved_bytes += share * moved
        self.seconds += share * operation.seconds
        self.count += 1
        self.names[name] += share * (operation.flops or moved * 1e-6)

    def largest(self, most: int = 4) -> str:
        """The names that cost most, in words."""
        names = sorted(self.names, key=lambda name: -self.names[name])
        return ", ".join(names[:most]) + (" and others" if len(names) > most else "")

    def finding(self, kind: Kind, where: str, what: str, timed: bool) -> Finding:
        return Finding(
            kind=kind,
            where=where,
            what=what,
            flops=round(self.flops),
            moved_bytes=round(self.moved_bytes),
            seconds=self.seconds if timed else None,
            count=self.count,
        )


def _size(flops: float, moved_bytes: float, cost: Cost) -> str:
    """`7.1 GFLOP, 10.9 % of the micro-batch`; bytes where there are no FLOPs to speak of."""
    if flops:
        return f"{show_flops(flops)}, {_percent(flops / max(cost.flops, 1))} of the micro-batch"
    return f"{show_bytes(moved_bytes)} read and written"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


# ---------------------------------------------------------------- positions and outputs that nobody reads


def unread_share(seen: Seen) -> dict[tuple[str, str], float]:
    """(part, module inside) -> share of its output's positions, padding apart, whose gradient is zero."""
    found: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for call in seen.trace.calls:
        share = _unread_of(seen, call)
        if share is not None:
            found[seen.places.part(call), seen.places.inside(call)].append(share)
    return {
        place: sum(share * rows for share, rows in shares) / sum(rows for _, rows in shares)
        for place, shares in found.items()
    }


def _unread_of(seen: Seen, call: Call) -> tuple[float, int] | None:
    """Share of unread positions among all of the call's positions that are no padding, and their number."""
    if call.unread_P is None:
        return None
    unread_P = call.unread_P.cpu().numpy()
    real_P = _real_positions(seen.micro_batch)
    if len(real_P) != len(unread_P):
        real_P = np.ones(len(unread_P), bool)
    return float(unread_P[real_P].mean()), int(real_P.sum())


def _real_positions(micro_batch: MicroBatch) -> np.ndarray:
    """(computed tokens,) bool: which of a micro-batch's positions hold a token."""
    if micro_batch.packing == "packed":
        return np.ones(micro_batch.tokens, bool)
    longest = int(micro_batch.lengths_B.max())
    return (np.arange(longest) < micro_batch.lengths_B[:, None]).flatten()


def _unread(seen: Seen, cost: Cost) -> tuple[list[Finding], list[str]]:
    """Parts that compute something for positions which nothing behind them reads."""
    trace = seen.trace
    blocks = [call.unread_P for call in trace.calls if call.block is not None and call.unread_P is not None]
    if blocks and all(bool(unread_P.all()) for unread_P in blocks):
        why = (
            "no block gets any gradient (a head whose weights are all zero?), so what is read cannot be told"
        )
        return [], [f"{why} before the first update"]
    shares: dict[int, float] = {}
    for number, call in enumerate(trace.calls):
        share = _unread_of(seen, call)
        if share is not None and share[0] > 0:
            # Of all its rows: padding is another finding.
            shares[number] = share[0] * share[1] / max(len(call.unread_P), 1)  # pyright: ignore
    sums: dict[str, _Sum] = defaultdict(_Sum)
    for operation in trace.operations:
        if operation.call in shares:
            call = trace.calls[operation.call]
            part, inside = seen.places.part(call), seen.places.inside(call)
            sums[part].add(operation, inside or part, shares[operation.call])
    by_place = unread_share(seen)
    return [
        _unread_finding(
            seen,
            part,
            one,
            cost,
            {inside: share for (owner, inside), share in by_place.items() if owner == part},
        )
        for part, one in sums.items()
        if one.flops >= 1
    ], []


def _unread_finding(seen: Seen, part: str, one: _Sum, cost: Cost, shares: dict[str, float]) -> Finding:
    """Evidence is the part's own output; where all of that is read, the module's that costs most."""
    share, of = shares.get("", 0.0), part
    if not share:
        inside = max(one.names, key=lambda name: one.names[name])
        share, of = shares.get(inside, 0.0), f"{inside} in {part}"
    what = (
        f"{_percent(share)} of the positions that {of} computes are never read; leaving them out of "
        f"{one.largest()} would save {_size(one.flops, one.moved_bytes, cost)}"
    )
    return one.finding("unread", part, what, seen.timed)


def _unused(seen: Seen, cost: Cost) -> list[Finding]:
    """Results that neither the loss nor the backward pass depends on."""
    sums = _by_place(
        seen,
        lambda number, one: one.phase in ("forward", "loss") and number not in seen.needed,
    )
    return [
        one.finding(
            "unused",
            where,
            f"what {where} computes is not used by the loss ({one.largest()}): "
            f"{_size(one.flops, one.moved_bytes, cost)}",
            seen.timed,
        )
        for where, one in sums.items()
    ]


def _by_place(seen: Seen, wanted: Callable[[int, Operation], bool]) -> dict[str, _Sum]:
    """The operations that are wanted, by part and module."""
    sums: dict[str, _Sum] = defaultdict(_Sum)
    for number, operation in enumerate(seen.trace.operations):
        if wanted(number, operation):
            sums[seen.place(seen.call(operation))].add(operation, operation.name)
    return sums


# ---------------------------------------------------------------- the same twice


def _repeated(seen: Seen) -> list[Finding]:
    """The same operation on the same inputs, again; blocks that repeat alike are one finding."""
    sums: dict[str, _Sum] = defaultdict(_Sum)
    for operation in seen.trace.operations:
        if (
            operation.repeats is None
            or operation.name in _FILLS
            or operation.phase not in ("forward", "loss")
            or seen.trace.operations[operation.repeats].phase not in ("forward", "loss")
        ):
            continue
        call = seen.call(operation)
        block = call is not None and call.block is not None
        part = "the blocks'" if block else seen.places.part(call)
        where = f"{part} {seen.places.inside(call)}".strip().removesuffix("'")
        sums[where].add(operation, operation.name)
    return [
        one.finding(
            "repeated",
            where,
            f"{one.largest()} in {where}: computed again {_times(one.count)} from the same inputs, "
            f"{show_flops(one.flops) + ', ' if one.flops else ''}{show_bytes(one.moved_bytes)} read and written",
            seen.timed,
        )
        for where, one in sums.items()
    ]


# ---------------------------------------------------------------- padding, waits, parameters


def _padding(seen: Seen, cost: Cost) -> list[Finding]:
    batch = seen.micro_batch
    extra = batch.computed_tokens - batch.tokens
    if not extra:
        return []
    share = extra / batch.computed_tokens
    what = (
        f"{extra:,} of {batch.computed_tokens:,} computed tokens ({_percent(share)}) are padding: "
        f"about {show_flops(share * cost.flops)}"
    )
    return [
        Finding(
            kind="padding",
            where="the micro-batch",
            what=what,
            flops=round(share * cost.flops),
            moved_bytes=round(share * cost.moved_bytes),
            seconds=None if cost.seconds is None else share * cost.seconds,
            count=extra,
        )
    ]


def _collected(seen: Seen) -> list[Finding]:
    return [
        Finding(
            kind="collected",
            where=name,
            what=f"{_COLLECTED[name]}, and nothing reads them: {show_bytes(size)}",
            moved_bytes=size,
        )
        for name, size in seen.trace.collected.items()
    ]


def _waits(seen: Seen) -> list[Finding]:
    """Host synchronisations by line of code."""
    places: dict[tuple[str, str, str], int] = defaultdict(int)
    for wait in seen.trace.waits:
        call = seen.trace.calls[wait.call] if wait.call >= 0 else None
        places[wait.what.strip("_"), seen.place(call), wait.place] += 1
    return [
        Finding(
            kind="sync",
            where=place or where,
            what=f"{name} in {where}{f' ({place})' if place else ''} waits for the GPU: "
            f"{_times(count)} a micro-batch",
            count=count,
        )
        for (name, where, place), count in places.items()
    ]


def _parameters(seen: Seen) -> list[Finding]:
    """Parameters without gradient, by part and reason."""
    groups: dict[tuple[str, str], list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in seen.module.named_parameters():
        if not parameter.requires_grad:
            reason = "frozen"
        elif name not in seen.got_gradient:
            reason = "unused"
        elif name in seen.zero_gradient:
            reason = "zero"
        else:
            continue
        groups[seen.places.of_parameter(name), reason].append(parameter)
    return [
        Finding(
            kind="parameter",
            where=part,
            what=_parameter_sentence(part, reason, parameters),
            count=len(parameters),
        )
        for (part, reason), parameters in groups.items()
    ]


def _parameter_sentence(part: str, reason: str, parameters: Sequence[torch.nn.Parameter]) -> str:
    values = sum(parameter.numel() for parameter in parameters)
    size = sum(parameter.nbytes for parameter in parameters)
    tensors = (
        f"{len(parameters)} {'tensor' if len(parameters) == 1 else 'tensors'} of {part} ({values:,} values)"
    )
    if reason == "frozen":
        return f"{tensors} are frozen: no gradient, no optimiser state"
    if reason == "unused":
        return f"{tensors} get no gradient, because the loss does not depend on them; freezing saves {show_bytes(size)}"
    return f"{tensors} get a gradient that is exactly zero in this micro-batch"


# ---------------------------------------------------------------- casts, copies, fills


def _round_trips(seen: Seen) -> list[Finding]:
    """A cast that is taken back at once."""
    found = []
    sums = _by_place(seen, lambda _, one: one.undoes is not None)
    for where, one in sums.items():
        trips = {
            (operation.cast[1], operation.undoes)
            for operation in seen.trace.operations
            if operation.cast and operation.undoes and seen.place(seen.call(operation)) == where
        }
        words = ", ".join(
            f"{outer} to {inner} and back{_lost(outer, inner)}" for outer, inner in sorted(trips)
        )
        what = f"{where} casts {words}, {_times(one.count)}, with nothing in between"
        found.append(one.finding("cast", where, what, seen.timed))
    return found


def _lost(outer: str, inner: str) -> str:
    """What the detour costs besides time."""
    wide, narrow = getattr(torch, outer), getattr(torch, inner)
    if wide.is_floating_point and narrow.is_floating_point:
        return ", which loses digits" if torch.finfo(narrow).eps > torch.finfo(wide).eps else ""
    return ""


def _moves(operation: Operation) -> bool:
    """A copy that changes the place or the order of a tensor, not its dtype."""
    return operation.name == "_to_copy" and operation.cast is None


def _totals(seen: Seen, kind: Kind, words: str, wanted: Callable[[Operation], bool]) -> Iterable[Finding]:
    """All operations of a kind in one finding: every one has a purpose, but the sum should be seen."""
    one = _Sum()
    where = _Sum()
    for operation in seen.trace.operations:
        if wanted(operation):
            name = f"{operation.cast[0]} to {operation.cast[1]}" if operation.cast else operation.name
            one.add(operation, name)
            call = seen.call(operation)
            block = call is not None and call.block is not None
            where.add(operation, "the blocks" if block else seen.places.part(call))
    if one.count:
        what = (
            f"{one.count} {words} ({one.largest()}), most in {max(where.names, key=lambda name: where.names[name])}: "
            f"{show_bytes(one.moved_bytes)} read and written"
        )
        yield one.finding(kind, "all", what, seen.timed)

"""What one rank of many would hold and send: the record of a dry run, and its lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bigbatch.units import show_bytes


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Collectives of one kind, over one axis, that one rank takes part in during an update."""

    collective: str
    """`all_reduce`, `all_gather`, `reduce_scatter`, `all_to_all`, `broadcast` or `scatter`."""
    axis: str
    """Axis of the mesh; `all ranks` where it is none."""
    ranks: int
    """That take part."""
    calls: int
    payload_bytes: int
    """Of the whole tensors: what is summed, or what everybody has after a gather."""

    @property
    def sent_bytes(self) -> int:
        """What this rank puts on the wire when the ranks form a ring: each byte passes it (n-1)/n times, twice for a
        sum that everybody gets.
        """
        times = 2 if self.collective == "all_reduce" else 1
        return round(times * self.payload_bytes * (self.ranks - 1) / self.ranks)


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory that tensors take at one time on one rank."""

    total_bytes: int
    model_bytes: int
    """Parameters and buffers that this rank holds."""
    lasting_bytes: int
    """Optimiser state, and what else stays from update to update."""
    phase: str
    """When it was reached: `forward and backward` or `optimiser`."""

    @property
    def passing_bytes(self) -> int:
        """Gradients, activations, gathered parameters: gone before the next update."""
        return self.total_bytes - self.model_bytes - self.lasting_bytes


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Rank 0 of a group, without the others and without numbers."""

    ranks: int
    arrangement: str
    """How they are arranged, in words."""
    data_ranks: int
    """Ranks, or groups of ranks, that compute samples of their own."""
    pieces: int
    """Micro-batches of an update, over all ranks; 0: replicas cut their own shares."""
    micro_batches: int
    """Of rank 0 in an update, fillers included."""
    micro_tokens: int
    """Computed tokens of its largest."""
    peak: Peak
    update: tuple[Traffic, ...]
    """Of an update (in which replicas do not meet)."""
    meeting: tuple[Traffic, ...] = ()
    """Of an update in which replicas meet; empty where none train apart."""
    period: str = ""
    """How often they do."""
    notes: tuple[str, ...] = field(default_factory=tuple)


def dry_lines(found: DryRun) -> list[str]:
    """The dry run for people: who computes, what it holds, what travels."""
    peak = found.peak
    lines = [
        f"dry run: rank 0 of {found.ranks:,} ({found.arrangement}); shapes alone, nothing was computed or sent",
        f"  work     {_work(found)}",
        f"  memory   {show_bytes(peak.total_bytes)} of tensors at most, during {peak.phase}: model "
        f"{show_bytes(peak.model_bytes)}, optimiser state and what else stays {show_bytes(peak.lasting_bytes)}, "
        f"gradients, activations and gathered parameters {show_bytes(peak.passing_bytes)}",
    ]
    if found.update:
        lines += ["", "an update:" if not found.meeting else "an update in which replicas do not meet:"]
        lines += traffic_lines(found.update)
    if found.meeting:
        lines += ["", f"an update in which replicas meet ({found.period}):", *traffic_lines(found.meeting)]
    return [*lines, *(f"note: {note}" for note in found.notes)]


def traffic_lines(traffic: Sequence[Traffic]) -> list[str]:
    """A table with a line for each kind, the largest first, and their sum."""
    ordered = sorted(traffic, key=lambda one: (-one.payload_bytes, one.collective, one.axis))
    rows = [("collective", "axis", "ranks", "calls", "payload", "sent by this rank")]
    rows += [
        (one.collective, one.axis, f"{one.ranks:,}", f"{one.calls:,}",
         show_bytes(one.payload_bytes), show_bytes(one.sent_bytes))
        for one in ordered
    ]  # fmt: skip
    calls, payload, sent = (
        sum(one.calls for one in ordered),
        sum(one.payload_bytes for one in ordered),
        sum(one.sent_bytes for one in ordered),
    )
    rows.append(("together", "", "", f"{calls:,}", show_bytes(payload), show_bytes(sent)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = (True, True, False, False, False, False)
    return [
        "  "
        + "  ".join(
            text.ljust(width) if to_left else text.rjust(width)
            for text, width, to_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]


def _work(found: DryRun) -> str:
    """Who computes how much."""
    own = f"{found.micro_batches:,} micro-batch{'' if found.micro_batches == 1 else 'es'}"
    told = f"{own} an update on this rank, the largest has {found.micro_tokens:,} tokens"
    if not found.pieces:
        return told
    told += f"; {found.pieces:,} over {found.data_ranks:,} that compute samples of their own"
    idle = found.data_ranks - found.pieces
    if idle > 0:
        told += f": {idle:,} of them have nothing to do, the batch is too small for so many"
    return told

"""Replicas that train apart: who holds which, when they meet, and how far apart they may drift.

A meeting costs the time to send the weights; its absence costs loss, because replicas average after they have gone
different ways. So the automatic period is as short as is cheap, and never so long that replicas drift too far.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST, LONGEST = 1, 512
"""Updates between two meetings that `auto` chooses from: powers of two."""
CHEAP_FRACTION = 0.05
"""Meetings that take at most this share of the time are cheap: a shorter period is then worth more than the time."""
MOST_DRIFT = 0.05
"""Distance of replicas from their mean, relative to the mean's norm, that `auto` stays below. A guess."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one meeting showed. The same values give the same decision."""

    drift: float
    """Root mean square over replicas of ||replica - mean|| / ||mean||, before averaging."""
    meeting_seconds: float
    """To average, everything included."""
    update_seconds: float
    """Mean of the updates since the meeting before, without meetings."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The next period, and why."""

    period: int
    """Updates until the next meeting."""
    why: str


def next_period(period: int, measured: Measured) -> Decision:
    """The period that follows one of `period` updates.

        cheap = smallest power of two with  meeting_seconds <= CHEAP_FRACTION * cheap * update_seconds

    Longer while a meeting is not cheap, if twice the drift is allowed too: apart, replicas go away from each other at
    most linearly. Halved when they have drifted too far, or when half the period is cheap as well.

    Args:
        period: updates since the meeting before; a power of two.
        measured: at this meeting.
    """
    cheap = cheap_period(measured.meeting_seconds, measured.update_seconds)
    drift = f"replicas were {measured.drift:.3g} of the weights' norm apart (allowed: {MOST_DRIFT:g})"
    cost = (
        f"a meeting takes {measured.meeting_seconds:.3g} s, an update {measured.update_seconds:.3g} s: "
        f"every {cheap} updates it is cheap"
    )
    if not measured.drift <= MOST_DRIFT:
        return Decision(period=max(SHORTEST, period // 2), why=drift)
    if period > cheap:
        return Decision(period=period // 2, why=cost)
    if period < cheap and 2 * measured.drift <= MOST_DRIFT:
        return Decision(period=min(LONGEST, 2 * period), why=f"{cost}; {drift}")
    return Decision(period=period, why=f"{cost}; {drift}")


def cheap_period(meeting_seconds: float, update_seconds: float) -> int:
    """The smallest power of two of updates that makes a meeting cheap, from SHORTEST to LONGEST."""
    period = SHORTEST
    while period < LONGEST and meeting_seconds > CHEAP_FRACTION * period * update_seconds:
        period *= 2
    return period


def held(replicas: int, rank: int, ranks: int) -> range:
    """The replicas that a rank computes, one after the other: in order, their numbers differ by at most one.

    Args:
        replicas: copies that train apart.
        rank: from 0.
        ranks: processes.
    """
    return range(rank * replicas // ranks, (rank + 1) * replicas // ranks)


def meets(update: int, last_update: int, period: int | None, met_at: int, automatic_period: int) -> bool:
    """Whether replicas meet after this update.

    Args:
        update: 1-based number of the update that was done.
        last_update: of the run; after it they always meet.
        period: of the recipe; None: automatic.
        met_at: the update after which they met last; 0 before the first meeting.
        automatic_period: the one decided at that meeting.
    """
    if update == last_update:
        return True
    return update % period == 0 if period is not None else update - met_at >= automatic_period

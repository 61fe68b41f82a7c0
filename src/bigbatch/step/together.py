"""Ranks finish an update together, or leave it together: nobody waits for one that has gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bigbatch.errors import PeerFailed
from bigbatch.protocols import World
from bigbatch.records import LossSums
from bigbatch.rules.tree import tree_total
from bigbatch.step.executor import OutOfMemory

Result = TypeVar("Result")


class Leaving(Exception):
    """Raised where it is safe to leave: nothing of the work in progress has been applied."""

    def __init__(self, signal: int | None, why: str) -> None:
        self.signal = signal
        super().__init__(why)


def together(world: World, work: Callable[[], Result]) -> Result:
    """Do this rank's part of some work; when any rank cannot, all raise what that one raised.

    Raises:
        OutOfMemory: on some rank; all can do it again in smaller pieces.
        Leaving: some rank was told to leave.
        PeerFailed: another rank failed in a way of its own.
    """
    if world.size == 1:
        return work()
    result, trouble = attempt(work)
    troubles = [row[0] for row in world.exchange([float(trouble is not None)])]
    if any(troubles):
        leave_together(world, trouble)
    assert result is not None or trouble is None
    return result  # type: ignore[return-value]


def attempt(work: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    """The result, or what was raised instead."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def leave_together(world: World, trouble: BaseException | None) -> None:
    """Raise this rank's own trouble, or that of the first rank that has one.

    Raises:
        OutOfMemory: on some rank.
        Leaving: some rank was told to leave.
        PeerFailed: some rank failed otherwise.
    """
    said = world.gather(None if trouble is None else _words(trouble))
    # The same kind everywhere, or one rank would go on where another stops.
    order = {"failed": 0, "leaving": 1, "memory": 2}
    rank, first = min(
        ((rank, words) for rank, words in enumerate(said) if words is not None),
        key=lambda found: order[found[1]["kind"]],
    )
    if trouble is not None and _words(trouble)["kind"] == first["kind"]:
        raise trouble
    where = f"rank {rank}: {first['why']}"
    if first["kind"] == "failed":
        raise PeerFailed(where) from trouble
    raise (OutOfMemory(where) if first["kind"] == "memory" else Leaving(first["signal"], where)) from trouble


def _words(trouble: BaseException) -> dict[str, Any]:
    why = str(trouble).partition("\n")[0] or type(trouble).__name__
    if isinstance(trouble, OutOfMemory):
        return {"kind": "memory", "why": why}
    if isinstance(trouble, Leaving):
        return {"kind": "leaving", "why": why, "signal": trouble.signal}
    return {"kind": "failed", "why": f"{type(trouble).__name__}: {why}"}


def summed(
    world: World,
    terms: Sequence[str],
    mine: LossSums | None,
    trouble: BaseException | None,
    peak_bytes: int,
) -> tuple[LossSums, int]:
    """The loss of the whole batch from every rank's part, in one exchange.

    Args:
        world: the ranks.
        terms: names of the loss terms, the same on every rank.
        mine: what this rank computed; None when it could not.
        trouble: why it could not.
        peak_bytes: this rank's memory.

    Returns:
        Sums over ranks (fp64); the largest rank's memory.
    """
    nothing = LossSums(terms={}, real_tokens=0, computed_tokens=0)
    # Ranks that share products compute the same samples: one of them counts.
    sums = mine if mine is not None and world.counts else nothing
    row = [
        float(trouble is not None),
        float(peak_bytes),
        float(sums.real_tokens),
        float(sums.computed_tokens),
    ]
    rows = world.exchange([*row, *(sums.terms.get(term, 0.0) for term in terms)])
    if any(row[0] for row in rows):
        leave_together(world, trouble)
    total = [_sum(column) for column in zip(*rows, strict=True)]
    found = LossSums(
        terms=dict(zip(terms, total[4:], strict=True)),
        real_tokens=int(total[2]),
        computed_tokens=int(total[3]),
    )
    return found, int(max(row[1] for row in rows))


def _sum(column: Sequence[float]) -> float:
    """In the order in which aligned gradients are added, so that the loss has the same bits too."""
    found = tree_total(enumerate(column), lambda one, other: one + other)
    assert found is not None
    return found

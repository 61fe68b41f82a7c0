"""Ranks finish a piece of work together, or leave it together: nobody waits for one that has gone.

::

    attempt   this rank's part, or what it met instead; tensors of a failed part go at once
    agreed    one small message: when any rank met something, all raise it, and the group is as it was before

A rank that leaves in the middle of a pass lets the others out of the collectives of that pass (`World.leave`): they
fail there, and come to the same `agreed`. So trouble may come up anywhere between two agreements, on any rank.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from bigbatch.errors import PeerFailed
from bigbatch.protocols import World
from bigbatch.records import LossSums
from bigbatch.rules.tree import tree_total
from bigbatch.step.memory import OutOfMemory, is_memory_error

Result = TypeVar("Result")
_AGREED = "agreed_by_all_ranks"
"""Attribute of an exception that every rank has raised, or an equal one: there is nothing left to tell."""


class Leaving(Exception):
    """Raised where it is safe to leave: nothing of the work in progress has been applied."""

    def __init__(self, signal: int | None, why: str) -> None:
        self.signal = signal
        super().__init__(why)


@dataclass(eq=False)
class Attempt(Generic[Result]):
    """What came of this rank's part of some work."""

    result: Result | None = None
    trouble: Exception | None = None
    """What it met instead."""


def attempt(work: Callable[[], Result]) -> Attempt[Result]:
    """Do this rank's part; what it raises is kept, without the tensors that its frames hold."""
    try:
        return Attempt(result=work())
    except KeyboardInterrupt:
        return Attempt(trouble=Leaving(signal.SIGINT, "SIGINT was received"))
    except Exception as error:
        return Attempt(trouble=_light(error))


def agreed(world: World, mine: Attempt[Result]) -> Result:
    """This rank's result, once every rank has one; else all raise what one of them met.

    Raises:
        OutOfMemory: on some rank; all can do the work again in smaller pieces.
        Leaving: some rank was told to leave.
        PeerFailed: another rank failed in a way of its own; that rank raises what it met.
    """
    # Nothing here may hold what is raised: the frame is part of its traceback, and the cycle would keep its tensors.
    trouble, mine.trouble = mine.trouble, None
    try:
        if getattr(trouble, _AGREED, False):
            assert trouble is not None
            raise trouble
        if trouble is not None:
            world.leave()
        if any(row[0] for row in world.exchange([float(trouble is not None)])):
            raise _verdict(world, trouble)
    finally:
        trouble = None
    return cast(Result, mine.result)


def together(world: World, work: Callable[[], Result]) -> Result:
    """Do this rank's part of some work; when any rank cannot, all raise what that one raised (`agreed`)."""
    return agreed(world, attempt(work))


def alone(world: World, work: Callable[[], Result]) -> Result:
    """Work of this rank that the others do not wait for. When it fails, they learn so at their next agreement."""
    mine = attempt(work)
    return cast(Result, mine.result) if mine.trouble is None else agreed(world, mine)


def was_agreed(error: BaseException) -> bool:
    """Whether every rank has raised this, or its cause: all are at the same place, and no work has been applied."""
    return getattr(error, _AGREED, False) or getattr(error.__cause__, _AGREED, False)


def _light(error: Exception) -> Exception:
    """The same, without the tensors of the frames that it came through."""
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    return OutOfMemory(_first_line(error)) if is_memory_error(error) and not was_agreed(error) else error


def _verdict(world: World, trouble: Exception | None) -> Exception:
    """What this rank has to raise: its own trouble, or that of the first rank that has the gravest kind.

    Everybody learns why, and nobody is inside a collective any more: the group is made ready for the next pass.
    """
    said = world.gather(None if trouble is None else _words(world, trouble))
    world.renew()
    # The same kind everywhere, or one rank would go on where another stops.
    order = ("failed", "leaving", "memory", "let out")
    rank, first = min(
        ((rank, words) for rank, words in enumerate(said) if words is not None),
        key=lambda found: order.index(found[1]["kind"]),
    )
    own = (
        trouble is not None and _words(world, trouble)["kind"] == first["kind"] and first["kind"] != "let out"
    )
    return _marked(
        trouble if own and trouble is not None else _of_another(first, f"rank {rank}: {first['why']}")
    )


def _marked(error: Exception) -> Exception:
    """Known to all from now on; some exceptions take no attributes."""
    try:
        setattr(error, _AGREED, True)
        return error
    except (AttributeError, TypeError):
        found = RuntimeError(f"{type(error).__name__}: {error}")
        found.__cause__ = error
        return _marked(found)


def _of_another(words: dict[str, Any], where: str) -> Exception:
    """What a rank raises because of another's trouble."""
    if words["kind"] == "memory":
        return OutOfMemory(where)
    if words["kind"] == "leaving":
        return Leaving(words["signal"], where)
    return PeerFailed(where)


def _words(world: World, trouble: Exception) -> dict[str, Any]:
    why = _first_line(trouble)
    if isinstance(trouble, OutOfMemory):
        return {"kind": "memory", "why": why}
    if isinstance(trouble, Leaving):
        return {"kind": "leaving", "why": why, "signal": trouble.signal}
    kind = "let out" if world.was_let_out(trouble) else "failed"
    return {"kind": kind, "why": f"{type(trouble).__name__}: {why}"}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def summed(world: World, terms: Sequence[str], mine: LossSums, peak_bytes: int) -> tuple[LossSums, int]:
    """The loss of the whole batch from every rank's part, in one exchange.

    Args:
        world: the ranks.
        terms: names of the loss terms, the same on every rank.
        mine: what this rank computed.
        peak_bytes: this rank's memory.

    Returns:
        Sums over ranks (fp64); the largest rank's memory.
    """
    nothing = LossSums(terms={}, real_tokens=0, computed_tokens=0)
    # Ranks that share products compute the same samples: one of them counts.
    sums = mine if world.counts else nothing
    row = [float(peak_bytes), float(sums.real_tokens), float(sums.computed_tokens)]
    rows = world.exchange([*row, *(sums.terms.get(term, 0.0) for term in terms)])
    total = [_sum(column) for column in zip(*rows, strict=True)]
    found = LossSums(
        terms=dict(zip(terms, total[3:], strict=True)),
        real_tokens=int(total[1]),
        computed_tokens=int(total[2]),
    )
    return found, int(max(row[0] for row in rows))


def _sum(column: Sequence[float]) -> float:
    """In the order in which aligned gradients are added, so that the loss has the same bits too."""
    found = tree_total(enumerate(column), lambda one, other: one + other)
    assert found is not None
    return found

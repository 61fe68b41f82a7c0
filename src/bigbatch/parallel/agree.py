"""Ranks finish a piece of work together, or leave it together: nobody waits for one that has gone. Rank 0 leads.

::

    attempt   this rank's part, or what it met instead; tensors of a failed part go at once
    agreed    one small message: when any rank met something, all raise it, and the group is as it was before

A rank that leaves in the middle of a pass lets the others out of the collectives of that pass (`World.leave`): they
fail there, and come to the same `agreed`. So trouble may come up anywhere between two agreements, on any rank.

Before update 1 rank 0 works first or alone (`leader_first`, `by_leader`, `leader_only`), and all must hold the same
things (`check_same`).
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch

from bigbatch.errors import PeerFailed, UsageError
from bigbatch.protocols import World
from bigbatch.rules.tree import tree_total
from bigbatch.samples import LossSums

if TYPE_CHECKING:
    from torch import nn


Result = TypeVar("Result")
_AGREED = "agreed_by_all_ranks"
"""Attribute of an exception that every rank has raised, or an equal one: there is nothing left to tell."""


class OutOfMemory(Exception):
    """A micro-batch did not fit; the weights are untouched, so the loop can replay the update in smaller pieces."""


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
        wait_seconds=mine.wait_seconds,
    )
    return found, int(max(row[0] for row in rows))


def _sum(column: Sequence[float]) -> float:
    """In the order in which aligned gradients are added, so that the loss has the same bits too."""
    found = tree_total(enumerate(column), lambda one, other: one + other)
    assert found is not None
    return found


# ------------------------------------------------------------ out of memory, in whichever words torch and Python say it

_CPU_ALLOCATOR = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
"""How torch's CPU allocator says it, on Windows and on Linux: as a plain RuntimeError."""


def is_memory_error(error: BaseException | None) -> bool:
    """Whether torch, or Python, ran out of memory."""
    if isinstance(error, (OutOfMemory, torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATOR)


class memory_errors:
    """Turn every way in which torch says "out of memory" into OutOfMemory."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if is_memory_error(error) and not isinstance(error, OutOfMemory):
            raise OutOfMemory(str(error)) from error


# ------------------------------------------------------------ before update 1


def leader_first(world: World, work: Callable[[], Result]) -> Result:
    """Rank 0 works while the others wait; then they do the same, and find what it left (a cache, say).

    Raises:
        PeerFailed: rank 0 could not.
    """
    if world.rank:
        _heard(world)
        return work()
    return by_leader(world, work, lambda _: True, lambda _: work())


def by_leader(
    world: World, work: Callable[[], Result], told: Callable[[Result], object], heard: Callable[[Any], Result]
) -> Result:
    """Rank 0 works and tells the others what came of it, as JSON.

    Args:
        world: all ranks call it.
        work: done by rank 0.
        told: its result as JSON.
        heard: JSON as the result, on the others.

    Raises:
        PeerFailed: rank 0 could not.
    """
    if world.rank:
        return heard(_heard(world))
    try:
        result = work()
    except Exception as error:
        world.share({"failed": f"{type(error).__name__}: {error}"})
        raise
    world.share({"done": told(result)})
    return result


def leader_only(world: World, work: Callable[[], Result]) -> Result | None:
    """Rank 0 works; the others go on once it is done.

    Raises:
        PeerFailed: rank 0 could not.
    """

    def led() -> Result | None:
        return work()

    return by_leader(world, led, lambda _: True, lambda _: None)


def _heard(world: World) -> Any:
    said = world.share()
    if "failed" in said:
        raise PeerFailed(f"rank 0: {said['failed']}")
    return said["done"]


def check_same(world: World, facts: Mapping[str, object], host: str) -> None:
    """Refuse ranks that would compute something else.

    Args:
        world: the ranks.
        facts: what must be equal, by the name that the user knows it under; JSON values.
        host: this machine's name.

    Raises:
        UsageError: on every rank, naming the first ranks and items that differ.
    """
    if world.size == 1:
        return
    everyone = world.gather({"host": host, "facts": dict(facts)})
    first = everyone[0]
    differing = [
        f"{name}: rank 0 on {first['host']} has {_short(first['facts'].get(name))}, "
        f"rank {rank} on {other['host']} has {_short(other['facts'].get(name))}"
        for rank, other in enumerate(everyone)
        for name in sorted({*first["facts"], *other["facts"]})
        if first["facts"].get(name) != other["facts"].get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UsageError(
            "the ranks do not compute the same: " + "; ".join(differing[:5]) + more + ". "
            "Nothing was started; bring recipe, data, model and installation of all machines to the same state"
        )


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    """Shape of every parameter and buffer, by name."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}

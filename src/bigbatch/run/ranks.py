"""What the ranks of a run agree on before update 1: rank 0 leads, and all must hold the same things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from bigbatch.errors import PeerFailed, UsageError
from bigbatch.protocols import World
from bigbatch.run.identity import Decision, Finished, NewName, Resume, Start

Result = TypeVar("Result")
_DECISIONS: Mapping[str, type[Decision]] = {
    kind.__name__: kind for kind in (Start, Resume, Finished, NewName)
}


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
    world: World, work: Callable[[], Result], told: Callable[[Result], Any], heard: Callable[[Any], Result]
) -> Result:
    """Rank 0 works and tells the others what came of it, as JSON.

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


def decided(world: World, decide: Callable[[], Decision]) -> Decision:
    """Rank 0 decides which directory the run lives in."""
    return by_leader(world, decide, _words, _decision)


def _heard(world: World) -> Any:
    said = world.share()
    if "failed" in said:
        raise PeerFailed(f"rank 0: {said['failed']}")
    return said["done"]


def _words(decision: Decision) -> dict[str, Any]:
    values = {entry.name: getattr(decision, entry.name) for entry in fields(decision)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return {"kind": type(decision).__name__, **plain}


def _decision(words: Mapping[str, Any]) -> Decision:
    kind = _DECISIONS[words["kind"]]
    values = {name: value for name, value in words.items() if name != "kind"}
    for name, value in values.items():
        if name in ("path", "taken"):
            values[name] = Path(value)
        elif name == "differences":
            values[name] = tuple(value)
    return kind(**values)


def check_same(world: World, facts: Mapping[str, Any], host: str) -> None:
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


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def shapes_of(module: Any) -> dict[str, list[int]]:
    """Shape of every parameter and buffer, by name."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}

"""What each rank left behind when it ended, and which of them was the cause.

Every worker leaves `ending-<restart>-<rank>.json` in the launch folder; the agent that started it adds what it saw of
those that could not (`agent-<restart>-<host>.json`). A rank that fails because another one is gone is a consequence.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from bigbatch.documents import Amount, Count, checked
from bigbatch.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, MachineError
from bigbatch.stored import Damaged, read_json, read_object
from bigbatch.written import replace_text

INTERRUPTED = (EXIT_INTERRUPTED, EXIT_TERMINATED)
RETRY = (1, MachineError.exit_code)
"""Codes after which starting again may help; with any other the process tells the agent that it is done."""


_MOST_BYTES = 2**24


class WorkerFile(TypedDict):
    """worker-3.json, as far as it is read."""

    size: Annotated[int, Field(ge=1, lt=2**31)]
    pid: Annotated[int, Field(gt=0, lt=2**31)]


class _EndingFile(TypedDict):
    """As `Ending`: exactly this."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    rank: Count
    host: str
    pid: Annotated[int, Field(ge=0, lt=2**31)]
    exit_code: Annotated[int, Field(ge=-64, le=255)]
    message: NotRequired[str]
    consequence: NotRequired[bool]
    at: NotRequired[Amount]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one rank ended."""

    rank: int
    host: str
    pid: int
    exit_code: int
    """As the command line would have it; negative: the signal that killed the process."""
    message: str = ""
    consequence: bool = False
    """Whether it only could not go on without another rank."""
    at: float = 0.0
    """Seconds since the epoch."""


def leave(folder: Path, ending: Ending, restart: int) -> None:
    """Write this worker's ending; a disk that is full costs only the words.

    Args:
        folder: of the launch.
        ending: of this rank.
        restart: how often the group was started again before: each start has its own endings.
    """
    with suppress(OSError):
        # Whole or not at all: the launcher may be reading.
        path = folder / f"ending-{restart}-{ending.rank}.json"
        replace_text(path, json.dumps(asdict(ending)), durable=False)


def restarts(folder: Path) -> int:
    """Number of the newest start that left anything."""
    found = [path.name.split("-")[1] for path in folder.glob("*-*-*.json")]
    return max((int(number) for number in found if number.isdecimal() and len(number) < 10), default=0)


def endings(folder: Path) -> list[Ending]:
    """How the ranks of the newest start ended, by their own word or by the agent's."""
    newest = restarts(folder)
    own = {found.rank: found for found in _read(folder, f"ending-{newest}-*.json")}
    seen = {found.rank: found for found in _read(folder, f"agent-{newest}-*.json")}
    known = _workers(folder)
    found = [ending for ending in {**seen, **own}.values() if _is_of_now(ending, known)]
    return sorted(found, key=lambda ending: ending.rank)


def _workers(folder: Path) -> dict[int, WorkerFile]:
    """What each rank's newest process said of itself when it began."""
    found: dict[int, WorkerFile] = {}
    for path in folder.glob("worker-*.json"):
        rank = path.stem.partition("-")[2]
        with suppress(OSError, Damaged):
            if rank.isdecimal():
                found[int(rank)] = checked(read_object(path, most_bytes=_MOST_BYTES), WorkerFile)
    return found


def worker_pids(folder: Path) -> dict[int, int]:
    """Process id of each rank's newest process."""
    return {rank: said["pid"] for rank, said in _workers(folder).items()}


def _is_of_now(ending: Ending, known: Mapping[int, WorkerFile]) -> bool:
    """Whether it belongs to the newest group: one that lost a machine counts its starts anew."""
    first, own = known.get(0), known.get(ending.rank)
    return (first is None or ending.rank < first["size"]) and (own is None or own["pid"] == ending.pid)


def _read(folder: Path, pattern: str) -> list[Ending]:
    found = []
    for path in sorted(folder.glob(pattern)):
        with suppress(OSError, Damaged):  # half written, or not by us: then whoever saw it end says so
            content = read_json(path, most_bytes=_MOST_BYTES)
            each = checked(content if isinstance(content, list) else [content], list[_EndingFile])
            found += [Ending(**one) for one in each]
    return found


def cause(found: Sequence[Ending], *, interrupted: bool) -> Ending | None:
    """The ending that explains the others; None when all went well.

    Args:
        found: of one start.
        interrupted: whether the user sent a signal; else whoever was ended by one was ended by the agent, because
            another had failed.
    """
    bad = [ending for ending in found if ending.exit_code != EXIT_DONE]
    own = [ending for ending in bad if not ending.consequence]
    if interrupted:
        return min(own or bad, key=lambda ending: ending.at, default=None)
    by_themselves = [ending for ending in own if not _was_ended(ending)]
    return min(by_themselves or own or bad, key=lambda ending: ending.at, default=None)


def _was_ended(ending: Ending) -> bool:
    return ending.exit_code in (*INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)


def _signal_name(number: int) -> str:
    """`SIGKILL`; those between the named and the real-time ones, and of other systems, have only a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def told(ending: Ending, *, interrupted: bool = False) -> tuple[int, str]:
    """Exit code and sentence for the user."""
    if interrupted and ending.exit_code < 0:
        return 128 - ending.exit_code, "interrupted before the run had begun"
    who = f"rank {ending.rank} (process {ending.pid} on {ending.host})"
    if ending.exit_code < 0:
        name = _signal_name(-ending.exit_code)
        hint = ": often the system had no memory left" if name == "SIGKILL" else ""
        return MachineError.exit_code, f"{who} was killed ({name}){hint}"
    if ending.exit_code in INTERRUPTED:
        return ending.exit_code, ending.message
    return ending.exit_code, ending.message if ending.rank == 0 else f"{who}: {ending.message}"

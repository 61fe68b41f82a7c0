"""Threads that share an operation sleep while they wait for each other, instead of turning round.

By default the threads of OpenMP turn round for some time at the end of every operation. On a machine that does
something else too, the thread that is waited for may not even be running, while the one that waits keeps a core from
it: beside other work a training was measured at a quarter of the speed that its share of the machine allows
(docs/experiments/busy-machine.md).

The libraries read these variables once, when torch is loaded. So they are set when this file is imported, which
`import bigbatch` does first of all, unless torch is there already or the user has chosen another way of waiting.
Workers and other child processes inherit them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Mapping, MutableMapping
from typing import Protocol

PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}
"""GNU's OpenMP reads the first two: threads turn round for some microseconds before they sleep, which wins back what
a quiet machine would lose, a tenth. LLVM's and Intel's read the first and the last."""
CHOSEN_BY = (*PASSIVE, "KMP_LIBRARY")
"""Whoever set one of these has chosen how threads wait."""


def wait_passively(environ: MutableMapping[str, str], loaded: Container[str]) -> bool:
    """Set what makes threads wait passively, for this process and those that it starts.

    Args:
        environ: of this process.
        loaded: names of the modules that are loaded.

    Returns:
        Whether threads wait as the user or this function wants it; False: torch had been loaded before.
    """
    if chosen(environ):
        return True
    if "torch" in loaded:
        return False
    environ.update(PASSIVE)
    return True


def chosen(environ: Mapping[str, str]) -> bool:
    """Whether the environment says how threads wait."""
    return any(environ.get(name) for name in CHOSEN_BY)


WAITS = wait_passively(os.environ, sys.modules)
"""Whether the threads of this process wait as they should."""


class Machine(Protocol):
    """What this file reads of `records.HardwareFacts`."""

    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...


def notes_of_waiting(hardware: Machine, *, waits: bool | None = None) -> tuple[str, ...]:
    """What to tell a user whose threads turn round: nothing, or one sentence.

    Args:
        hardware: that is trained on.
        waits: None: `WAITS`.
    """
    if (WAITS if waits is None else waits) or hardware.device != "cpu" or hardware.threads < 2:
        return ()
    return (
        "torch was loaded before bigbatch: its threads keep cores busy while they wait, which makes a run several "
        "times slower beside other work; import bigbatch before torch, or set OMP_WAIT_POLICY=passive",
    )

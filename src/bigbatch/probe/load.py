"""Watches what else the machine does while something is measured: load is told from slowness.

`/proc/stat` counts the seconds that all cores were busy, `/proc/self/task/*/schedstat` those in which threads of ours
could have run and had no core. Elsewhere than on Linux nothing is known, and a machine counts as quiet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bigbatch.plan.timing import Load

_PROC = Path("/proc")
_SHORTEST_SECONDS = 0.2
"""`/proc/stat` counts hundredths of a second."""


class LoadWatch:
    """From its making on."""

    def __init__(
        self,
        *,
        proc: Path = _PROC,
        wall: Callable[[], float] = time.perf_counter,
        own: Callable[[], float] = time.process_time,
        cores: int | None = None,
    ) -> None:
        """Arguments are for tests: where the system's counts are, the clocks, the machine's cores."""
        self._proc, self._wall, self._own = proc, wall, own
        self._cores = cores or os.cpu_count() or 1
        self._before = self._now()

    def load(self) -> Load | None:
        """What happened since then; None where the system does not tell, or it is too short to tell."""
        before, now = self._before, self._now()
        wall, own, waited = (after - first for after, first in zip(now[:3], before[:3], strict=True))
        if now[3] is None or before[3] is None or wall < _SHORTEST_SECONDS:
            return None
        return Load(
            wall_seconds=wall,
            cpu_seconds=own,
            waited_seconds=max(0.0, waited),
            others_cores=max(0.0, now[3] - before[3] - own) / wall,
            cores=self._cores,
        )

    def _now(self) -> tuple[float, float, float, float | None]:
        return self._wall(), self._own(), self._waited(), self._busy()

    def _busy(self) -> float | None:
        """Seconds that the cores of the machine were busy, summed, since it was started."""
        with suppress(OSError, ValueError, AttributeError):
            first = (self._proc / "stat").read_text(encoding="ascii").partition("\n")[0].split()
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, first[1:9])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return None

    def _waited(self) -> float:
        """Seconds in which threads that are alive were ready and had no core."""
        total = 0
        with suppress(OSError):
            for thread in (self._proc / "self" / "task").iterdir():
                with suppress(OSError, ValueError, IndexError):
                    total += int((thread / "schedstat").read_text(encoding="ascii").split()[1])
        return total / 1e9

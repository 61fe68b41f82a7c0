"""What else a machine did while a run was measured on it, and what the run would take without that."""

from __future__ import annotations

from dataclasses import dataclass

_NOTICED = 1.15
"""Threads that were kept from running by less than this factor were not kept from it by other work."""
_CROWDED = 0.25
"""Cores that others use, from which on a machine whose cores are all taken is called busy."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """CPU time beside wall time, over the seconds of measuring."""

    wall_seconds: float
    cpu_seconds: float
    """Of this process, all threads."""
    waited_seconds: float
    """In which threads of this process could have run and had no core, summed over threads."""
    others_cores: float
    """Cores that other processes kept busy on average (other machines on this one too, where it is virtual)."""
    cores: int
    """Of the machine."""

    @property
    def slowdown(self) -> float:
        """How many times as long everything took as it would have taken alone."""
        return (self.cpu_seconds + self.waited_seconds) / max(self.cpu_seconds, 1e-9)

    @property
    def busy(self) -> bool:
        """Whether other work slowed this process down: what was timed meanwhile is not this machine's speed."""
        own = self.cpu_seconds / max(self.wall_seconds, 1e-9)
        crowded = self.others_cores > _CROWDED and own + self.others_cores > 0.9 * self.cores
        return self.slowdown > _NOTICED or crowded

    def __str__(self) -> str:
        cores = "core" if self.cores == 1 else "cores"
        return f"other processes use {min(self.others_cores, self.cores):.1f} of {self.cores} {cores}"


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What measuring before the run left out, and why."""

    load: Load | None = None
    """None: it was not looked at, or the system does not tell."""
    sizes_not_tried: str = ""
    """Why one size of micro-batch was measured alone; empty: others were tried, or the user named it."""

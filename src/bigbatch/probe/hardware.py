"""What the machine is and has: device, memory that may be used, cores; and how much memory is in use.

Reads what the system tells (`/proc`, cgroups, torch); no dependency beyond torch, and none of it is needed to
import this file on macOS or Windows.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Protocol

import torch

from bigbatch.errors import Problem, RecipeError
from bigbatch.facts import HardwareFacts
from bigbatch.places import Place

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class PlanSettings(Protocol):
    """What this file reads of `recipe.plan`."""

    @property
    def device(self) -> str | None: ...
    @property
    def threads(self) -> int | None: ...


def hardware_facts(settings: PlanSettings, place: Place | None = None) -> HardwareFacts:
    """Look at the machine.

    Args:
        settings: `recipe.plan`; `device` and `threads` are taken as asked for.
        place: this process among those of the machine, which share cores and memory and take an accelerator each.

    Raises:
        RecipeError: `plan.device` names a device that torch does not see.
    """
    device = choose_device(settings.device, place.local_rank if place else 0)
    beside = place.local_size if place else 1
    cores = max(1, usable_cores() // beside)
    return HardwareFacts(
        device=device,
        device_name=_device_name(device),
        memory_bytes=usable_memory_bytes(device) // (beside if device == "cpu" else 1),
        cores=cores,
        threads=settings.threads or min(torch.get_num_threads(), cores),
        ranks=place.size if place else 1,
    )


def choose_device(asked: str | None, local_rank: int = 0) -> str:
    """`cuda:0`, `mps` or `cpu`: the one asked for, else the fastest that torch sees; each process its own.

    Raises:
        RecipeError: not a device, or not there.
    """
    seen = ["cpu"]
    if torch.backends.mps.is_available():
        seen.insert(0, "mps")
    if torch.cuda.is_available():
        seen[:0] = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    own = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"
    if asked is None:
        return own if seen[0].startswith("cuda") else seen[0]
    name = own if asked == "cuda" else asked
    if name not in seen:
        what = f"found {asked!r}, which torch does not see here; expected {' or '.join(seen)}"
        raise RecipeError([Problem(where="recipe", key="plan.device", what=what)])
    return name


def usable_cores() -> int:
    """Cores that this process may use: CPU affinity, and the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cgroup_cores()
    return max(1, min(cores, quota)) if quota else cores


def usable_memory_bytes(device: str) -> int:
    """Memory that this process may use in all: what it has, and what is free (others and cgroups counted)."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    resident = resident_bytes()
    limits = [_system_free_bytes(), *_cgroup_free_bytes()]
    return resident + max(0, min(limits))


def resident_bytes(device: str = "cpu") -> int:
    """Memory in use now: of the process on a CPU, of torch's tensors on an accelerator."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device)
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    statm = _read(_PROC / "self" / "statm")
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm else _resource_peak_bytes()


def peak_memory_bytes(device: str = "cpu") -> int:
    """Highest memory in use since the process started."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    # VmHWM first: ru_maxrss of a process that a large one started begins at the large one's size.
    for line in _read(_PROC / "self" / "status").splitlines():
        if line.startswith("VmHWM:"):
            return max(int(line.split()[1]) * 1024, resident_bytes())
    return _resource_peak_bytes()


def synchronize(device: str) -> None:
    """Wait until the accelerator has done what it was given, so that clocks tell the truth."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    for line in _read(_PROC / "cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _resource_peak_bytes() -> int:
    """Peak from the C library; 0 where there is none (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _system_free_bytes() -> int:
    """Free memory of the machine; all of it where the system does not tell (macOS, Windows)."""
    for line in _read(_PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _windows_free_bytes()


def _windows_free_bytes() -> int:
    """Available physical memory from the Windows kernel."""
    import ctypes

    class _Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")
        ]

    status = _Status(length=ctypes.sizeof(_Status))
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.free)


def _cgroup_folders() -> list[Path]:
    """Folders of the control groups that this process is in, innermost first; version 2, else version 1."""
    for line in _read(_PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        root = _CGROUPS if controllers == "" else _CGROUPS / "memory"
        if controllers not in ("", "memory") or not root.is_dir():
            continue
        inner = root / path.lstrip("/")
        folders = [inner, *inner.parents]
        return [folder for folder in folders if folder == root or root in folder.parents]
    return []


def _cgroup_free_bytes() -> list[int]:
    """What each enclosing control group with a limit has left; files that it only caches count as free."""
    free = []
    for folder in _cgroup_folders():
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is None or used is None:
            continue
        cached = [
            int(line.split()[1])
            for line in _read(folder / "memory.stat").splitlines()
            if line.startswith("inactive_file ")
        ]
        free.append(limit - used + sum(cached))
    return free


def _cgroup_cores() -> int | None:
    """Whole cores of the smallest CPU quota around this process, at least one; None without a quota."""
    quotas = []
    for folder in _cgroup_folders():
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(max(1, round(int(words[0]) / int(words[1]))))
    return min(quotas, default=None)


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    """The text, or nothing when there is no such file or no right to read it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""The machine, and machines that are not this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bigbatch.errors import RecipeError
from bigbatch.probe import hardware
from bigbatch.probe.hardware import (
    choose_device,
    hardware_facts,
    peak_memory_bytes,
    resident_bytes,
    usable_cores,
    usable_memory_bytes,
)

GIB = 1024**3
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up Linux: 8 GiB available, 1,000 pages resident, no control group."""
    monkeypatch.setattr(hardware, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "proc/self/statm", "5000 1000 1 1 1 1 1\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def own_bytes() -> int:
    return 1000 * os.sysconf("SC_PAGE_SIZE")


def test_facts_of_this_machine() -> None:
    facts = hardware_facts(SimpleNamespace(device="cpu", threads=None))
    assert facts.device == "cpu" and facts.device_name
    assert 1 <= facts.threads <= max(facts.cores, 1)
    assert facts.memory_bytes > resident_bytes() > 10 * 1024**2


def test_threads_are_taken_as_asked_for() -> None:
    assert hardware_facts(SimpleNamespace(device="cpu", threads=7)).threads == 7


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match=r"plan\.device: found 'tpu', .*expected .*cpu"):
        choose_device("tpu")


def test_the_fastest_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device(None) == choose_device("cuda") == "cuda:0"
    assert (choose_device("cuda:1"), choose_device("cpu")) == ("cuda:1", "cpu")
    with pytest.raises(RecipeError, match="expected cuda:0 or cuda:1 or cpu"):
        choose_device("cuda:2")


def test_free_memory_of_the_machine(machine: Path) -> None:
    assert usable_memory_bytes("cpu") == 8 * GIB + own_bytes()


def test_a_control_group_leaves_less(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/box/inner\n")
    write(machine / "cgroup/box/memory.max", f"{4 * GIB}\n")
    write(machine / "cgroup/box/memory.current", f"{3 * GIB}\n")
    write(machine / "cgroup/box/memory.stat", f"anon 5\ninactive_file {GIB}\n")
    write(machine / "cgroup/box/inner/memory.max", "max\n")
    write(machine / "cgroup/box/inner/memory.current", "1\n")
    assert usable_memory_bytes("cpu") == 2 * GIB + own_bytes()


def test_a_control_group_of_version_1(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "5:cpu,cpuacct:/x\n3:memory:/docker/abc\n")
    write(machine / "cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    write(machine / "cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    assert usable_memory_bytes("cpu") == GIB + own_bytes()


def test_an_exhausted_control_group_leaves_what_we_have(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/\n")
    write(machine / "cgroup/memory.max", f"{GIB}\n")
    write(machine / "cgroup/memory.current", f"{2 * GIB}\n")
    assert usable_memory_bytes("cpu") == own_bytes()


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("max 100000", 8), ("10000 100000", 1)])
def test_cores_honour_the_quota(
    machine: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    write(machine / "proc/self/cgroup", "0::/\n")
    write(machine / "cgroup/cpu.max", f"{quota}\n")
    assert usable_cores() == cores


def test_cores_without_affinity(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6


def test_a_system_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_PROC", tmp_path)
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path)
    assert peak_memory_bytes() == resident_bytes() > 10 * 1024**2
    assert usable_memory_bytes("cpu") > resident_bytes()


def test_a_peak_stays_after_the_memory_is_given_back() -> None:
    held = torch.ones(64 * 1024**2 // 4)
    assert resident_bytes() >= held.nbytes
    del held
    assert peak_memory_bytes() >= resident_bytes()
    more = torch.ones((peak_memory_bytes() - resident_bytes() + 128 * 1024**2) // 4)
    with_more = resident_bytes()
    del more
    # Kernels count pages in batches: a few are missing in either figure.
    assert peak_memory_bytes() >= 0.99 * with_more >= 128 * 1024**2


def test_a_small_process_started_by_a_large_one_begins_small() -> None:
    """ru_maxrss would say what this process had when it forked."""
    held = torch.ones(400 * 1024**2 // 4)
    code = "from bigbatch.probe.hardware import _read, _PROC; print(_read(_PROC / 'self' / 'status'))"
    code = "import sys; sys.modules['torch'] = type(sys)('torch'); " + code
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    peak = next(int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith("VmHWM"))
    assert peak < held.nbytes


def test_use_of_cuda_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 4)
    assert usable_memory_bytes("cuda:0") == 15
    assert (resident_bytes("cuda:0"), peak_memory_bytes("cuda:0")) == (3, 4)

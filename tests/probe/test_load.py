"""Load is told from slowness by what the system counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.plan.timing import Load
from bigbatch.probe.load import LoadWatch


def written(proc: Path, busy: float, waited: tuple[float, ...]) -> None:
    """The system's counts: seconds of all cores, seconds that each thread waited."""
    proc.mkdir(exist_ok=True)
    ticks = round(busy * 100)
    (proc / "stat").write_text(f"cpu  {ticks} 0 0 99999 5 0 0 0 0 0\ncpu0 1 2 3\n")
    for number, seconds in enumerate(waited):
        thread = proc / "self" / "task" / str(number)
        thread.mkdir(parents=True, exist_ok=True)
        (thread / "schedstat").write_text(f"1 {round(seconds * 1e9)} 7\n")


def seen(proc: Path, *, wall: float, own: float, busy: float, waited: tuple[float, ...]) -> Load:
    written(proc, 1000.0, (5.0, 5.0))
    clock = [0.0, 3.0]
    watch = LoadWatch(proc=proc, wall=lambda: clock[0], own=lambda: clock[1], cores=2)
    clock[:] = [wall, 3.0 + own]
    written(proc, 1000.0 + busy, tuple(5.0 + seconds for seconds in waited))
    found = watch.load()
    assert found is not None
    return found


def test_others_take_what_we_did_not(tmp_path: Path) -> None:
    found = seen(tmp_path, wall=10.0, own=6.0, busy=20.0, waited=(6.0, 6.0))
    assert found.others_cores == pytest.approx(1.4)
    assert found.slowdown == pytest.approx(3.0)
    assert found.busy and str(found) == "other processes use 1.4 of 2 cores"


def test_a_slow_machine_is_not_a_busy_one(tmp_path: Path) -> None:
    found = seen(tmp_path, wall=100.0, own=180.0, busy=181.0, waited=(0.5, 0.5))
    assert not found.busy and found.slowdown == pytest.approx(1.0, abs=0.01)


def test_others_that_leave_cores_free_do_not_matter() -> None:
    load = Load(wall_seconds=10, cpu_seconds=20, waited_seconds=0.1, others_cores=3.0, cores=64)
    assert not load.busy


def test_where_the_system_tells_nothing_nothing_is_claimed(tmp_path: Path) -> None:
    assert LoadWatch(proc=tmp_path / "none", wall=iter([0.0, 10.0]).__next__).load() is None


def test_a_moment_is_too_short_to_tell(tmp_path: Path) -> None:
    written(tmp_path, 1.0, (0.0,))
    clock = iter([0.0, 0.01])
    assert LoadWatch(proc=tmp_path, wall=lambda: next(clock)).load() is None

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bigbatch.errors import DiskError
from bigbatch.records import Eval, Event, Update
from bigbatch.store.journal import Journal, read_records
from tests.store.crashes import Disk, FailingOps, RecordingOps, crash_states


def update(step: int, loss: float = 0.5) -> Update:
    return Update(
        step=step, samples=8 * step, tokens=80 * step, batch_samples=8, batch_tokens=80,
        loss=loss, grad_norm=1.0, lr=1e-3, seconds=0.1,
    )  # fmt: skip


def evaluation(step: int) -> Eval:
    return Eval(
        step=step, split="validation", loss=0.4, metrics={"accuracy": 0.9}, seconds=1, samples_per_second=9
    )


def steps(directory: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in read_records(directory / "metrics.jsonl")]


@pytest.fixture
def ten(tmp_path) -> Journal:
    journal = Journal(tmp_path)
    for step in range(1, 11):
        journal.append(update(step))
        if step % 5 == 0:
            journal.append(evaluation(step))
    return journal


def test_records_come_back_as_they_were_written(tmp_path):
    journal = Journal(tmp_path)
    records = [
        update(1),
        evaluation(1),
        Event(step=1, event="stopped", why="w", did="d", details={"ids": [1]}),
    ]
    for record in records:
        journal.append(record)
    assert list(journal.read()) == [record.to_dict() for record in records]


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    journal = Journal(tmp_path)
    journal.append(update(1, loss=float("nan")))
    journal.append(
        Event(
            step=1,
            event="nonfinite",
            why="w",
            did="d",
            details={"norms": [float("inf"), 1.5], "n": np.int64(3), "p": Path("x")},
        )
    )
    lines = [json.loads(line, parse_constant=pytest.fail) for line in journal.path.read_text().splitlines()]
    assert lines[0]["loss"] is None and lines[0]["nonfinite"] is True
    assert (lines[1]["norms"], lines[1]["n"], lines[1]["p"]) == ([None, 1.5], 3, "x")


def test_an_update_is_never_recorded_twice(ten):
    with pytest.raises(AssertionError, match="update 10 again, after 10"):
        ten.append(update(10))
    with pytest.raises(AssertionError):
        Journal(ten.path.parent).append(update(3))


def test_rewinding_moves_later_records(ten):
    directory = ten.path.parent
    assert ten.rewind_to(5) == 6
    assert steps(directory) == [*(("update", step) for step in range(1, 6)), ("eval", 5)]
    lost = [
        json.loads(line)["step"] for line in (directory / "metrics.lost-1.jsonl").read_text().splitlines()
    ]
    assert lost == [6, 7, 8, 9, 10, 10]
    ten.append(update(6))
    assert ten.rewind_to(2) == 5
    assert (directory / "metrics.lost-2.jsonl").exists()
    ten.append(update(3))
    assert [step for kind, step in steps(directory) if kind == "update"] == [1, 2, 3]


def test_rewinding_to_the_end_changes_nothing(ten):
    assert ten.rewind_to(10) == 0
    assert os.listdir(ten.path.parent) == ["metrics.jsonl"]


def test_lost_files_are_numbered_past_nine(ten):
    for number in range(1, 11):
        (ten.path.parent / f"metrics.lost-{number}.jsonl").write_text("{}\n")
    ten.rewind_to(9)
    assert (ten.path.parent / "metrics.lost-11.jsonl").exists()


def test_every_crash_of_a_rewind_loses_no_record_and_repeats_none(ten, tmp_path):
    before, directory = Disk.of(tmp_path), ten.path.parent
    original = ten.path.read_bytes()
    ops = RecordingOps()
    Journal(directory, ops=ops).rewind_to(5)
    expected = {path.name: path.read_bytes() for path in directory.iterdir()}
    for number, (what, disk, unsynced) in enumerate(crash_states(before, ops.log)):
        case = tmp_path.parent / f"{tmp_path.name}-{number}"
        disk.write_to(case, tmp_path, unsynced)
        held = b"".join(path.read_bytes() for path in sorted(case.glob("metrics*")))
        assert all(line in held for line in original.splitlines()), what
        Journal(case).rewind_to(5)
        found = {path.name: path.read_bytes() for path in case.glob("metrics*")}
        assert found == expected, what


@pytest.mark.parametrize(
    "tail", [b'{"kind": "update", "step": 11', b"\0\0\0\0", b"{}", b'{"kind": "update", "step": 11}']
)
def test_a_torn_end_is_moved_away_on_opening(ten, tail):
    whole = ten.path.read_bytes()
    ten.path.write_bytes(whole + tail)
    assert len(list(read_records(ten.path))) == 12
    journal = Journal(ten.path.parent)
    assert journal.repaired_lines == 1
    assert ten.path.read_bytes() == whole
    assert (ten.path.parent / "metrics.lost-1.jsonl").read_bytes() == tail
    journal.append(update(11))
    assert steps(ten.path.parent)[-1] == ("update", 11)


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 20,
        b"[" * 100_000,
        b"{}",
        b'{"kind": "update", "step": "5"}',
        b'{"kind": "update", "step": 1e400}',
    ],
    ids=lambda damage: repr(damage[:34]),
)
def test_a_damaged_line_is_moved_and_an_event_stands_in_its_place(ten, damage):
    """Nothing else is lost, and the number of lines, which checkpoints know, stays."""
    lines = ten.path.read_bytes().splitlines(keepends=True)
    lines[4] = damage + b"\n"
    ten.path.write_bytes(b"".join(lines))
    journal = Journal(ten.path.parent)
    assert journal.repaired_lines == 1 and "1 damaged line" in journal.notes[0]
    assert (ten.path.parent / "metrics.lost-1.jsonl").read_bytes() == damage + b"\n"
    found = ten.path.read_bytes().splitlines(keepends=True)
    assert found[:4] + found[5:] == lines[:4] + lines[5:]
    event = json.loads(found[4])
    assert (event["kind"], event["event"], event["step"]) == ("event", "damaged_line", 4)
    assert Journal(ten.path.parent).repaired_lines == 0  # once
    journal.append(update(11))


@pytest.mark.parametrize("what", ["a folder", "a named pipe", "a line of more than"])
def test_what_is_no_journal_is_set_aside(ten, what):
    ten.path.unlink()
    if what == "a folder":
        ten.path.mkdir()
    elif what == "a named pipe":
        os.mkfifo(ten.path)
    else:
        with ten.path.open("wb") as file:
            file.truncate(3 * 10**9)
    journal = Journal(ten.path.parent)
    assert what in journal.notes[0]
    assert (ten.path.parent / "metrics.jsonl.damaged-1").exists()
    journal.append(update(1))
    assert steps(ten.path.parent) == [("update", 1)]
    assert journal.records == 1


def test_a_journal_knows_how_many_records_it_holds(ten):
    whole = len(ten.path.read_bytes().splitlines())
    with ten.path.open("ab") as file:
        file.write(b'{"kind": "upd')
    journal = Journal(ten.path.parent)
    assert journal.records == whole
    journal.append(update(11))
    assert journal.records == whole + 1
    journal.rewind_to(4)
    assert journal.records == len(ten.path.read_bytes().splitlines()) < whole


def test_a_full_disk_leaves_whole_records(ten):
    whole = ten.path.read_bytes()
    journal = Journal(ten.path.parent, ops=FailingOps(2))
    with pytest.raises(DiskError):
        journal.append(update(11))
    assert ten.path.read_bytes() == whole
    journal.append(update(11))  # the same update, once there is room


def test_sync_forces_contents_and_name(tmp_path):
    class Noted(RecordingOps):
        def open(self, path, *, append=False):
            return path.open("ab", buffering=0)

    ops = Noted()
    journal = Journal(tmp_path, ops=ops)
    journal.sync()
    assert ops.log == []
    journal.append(update(1))
    journal.sync()
    assert [op.kind for op in ops.log] == ["write", "fsync", "fsync_dir"]


def test_a_killed_process_loses_no_appended_record(tmp_path):
    script = """
import sys
from pathlib import Path
from bigbatch.store.journal import Journal
journal, step = Journal(Path(sys.argv[1])), 0
while True:
    step += 1
    journal.append({"kind": "update", "step": step, "loss": 1 / step})
    sys.stdout.write(f"{step}\\n"); sys.stdout.flush()
"""
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        last = 50 + len(process.stdout.read().splitlines())
    journal = Journal(tmp_path)
    found = [record["step"] for record in journal.read()]
    assert journal.repaired_lines == 0
    assert found in (list(range(1, last + 1)), list(range(1, last + 2)))

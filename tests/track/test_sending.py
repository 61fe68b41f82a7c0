from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bigbatch.errors import DiskError
from bigbatch.track import sending
from bigbatch.track.entries import Entry, Ledger, entry_of
from bigbatch.track.sending import send_run
from tests.report.fake_run import records, write_run
from tests.track.fake_tracker import FakeTracker, Killed

LINES = records(12, evaluate_every=4)


def written(path: Path) -> list[list[object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected(lines: list[dict[str, object]]) -> list[list[object]]:
    ledger = Ledger()
    entries = [ledger.admit(line) for line in lines]  # type: ignore[arg-type]
    return [[one.number, one.step, one.event, dict(one.figures)] for one in entries if one is not None]


def journal(run: Path, lines: list[dict[str, object]]) -> None:
    """In one step, as a resume does it."""
    (run / "new").write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(run / "new", run / "metrics.jsonl")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "runs" / "tweets")
    journal(folder, LINES)
    return folder


def test_a_run_is_sent_and_then_there_is_nothing_more(run: Path, tmp_path: Path) -> None:
    tracker = FakeTracker(tmp_path / "out")
    assert send_run(run, "fake", tracker) == len(LINES)
    found = written(tmp_path / "out")
    assert found == expected(LINES)
    assert found[0][3]["train/loss"] == LINES[0]["loss"] and found[0][3]["train/lr"] == LINES[0]["lr"]
    assert [step for _, step, event, figures in found if not event and "train/loss" in figures] == [
        line["step"] for line in LINES if line["kind"] == "update" and line["loss"] is not None
    ]
    assert (tracker.about.project, tracker.about.name) == ("runs", "tweets")
    assert tracker.about.settings["optimizer.lr"] == "0.0005" and "micro_tokens" in tracker.about.plan
    (ending,) = tracker.endings
    assert ending.state == "finished" and "final/test/f1_macro" in ending.figures
    assert {"recipe.yaml", "plan.json", "evaluation.json", "result.json"} <= {
        path.name for path in ending.files
    }
    assert send_run(run, "fake", tracker) == 0 and written(tmp_path / "out") == expected(LINES)


def resumed(lines: list[dict[str, object]], at: int) -> list[dict[str, object]]:
    """The journal after a resume from update `at`: later records are made again, an event says so."""
    kept = [line for line in lines if line["step"] <= at]
    event = {
        "kind": "event",
        "step": at,
        "event": "resumed",
        "why": "killed",
        "did": "went on",
        "time": LINES[0]["time"],
    }
    again = [
        line | ({"seconds": 9.9} if line["kind"] == "update" else {}) for line in lines if line["step"] > at
    ]
    return [*kept, event, *again]


@pytest.mark.parametrize("kill_at", range(20))
def test_killed_at_any_moment_every_record_is_sent_once(
    run: Path, tmp_path: Path, kill_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies at a moment, the next one three moments later, and so on; between them the run goes on, and is
    itself killed and resumed from an earlier update."""
    whole, real = resumed(LINES, 4), sending.replace_text
    moments, deadline = 0, kill_at

    def moment() -> None:
        nonlocal moments
        moments += 1
        if moments > deadline:
            raise Killed

    def remembered(path: Path, text: str) -> None:
        moment()  # sent, and not written down
        real(path, text)
        moment()

    monkeypatch.setattr(sending, "replace_text", remembered)
    monkeypatch.setattr(sending, "_BATCH_BYTES", 1500)
    stands = [LINES[:7], LINES[:11], whole[:9], whole]
    kills = 0
    for attempt in range(100):
        journal(run, stands[min(attempt, 3)])
        try:
            send_run(run, "fake", FakeTracker(tmp_path / "out", moment))
        except Killed:
            kills += 1
            deadline = moments + 3 + kill_at + 5 * attempt
            continue
        if attempt >= 3:
            break
    assert kills or kill_at > 15
    found = written(tmp_path / "out")
    assert [entry[0] for entry in found] == list(range(len(found)))
    names = [(entry[1], entry[2], "train/loss" in entry[3] or "train/lr" in entry[3]) for entry in found]
    assert sorted(map(str, names)) == sorted(
        str((entry[1], entry[2], "train/loss" in entry[3] or "train/lr" in entry[3]))
        for entry in expected(whole)
    )


def test_an_end_is_told_again_when_a_run_goes_on(run: Path, tmp_path: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    for state, lines in (("interrupted", LINES[:8]), ("finished", LINES)):
        journal(run, lines)
        (run / "status.json").write_text(json.dumps(status | {"state": state}))
        tracker = FakeTracker(tmp_path / "out")
        send_run(run, "fake", tracker)
        assert [ending.state for ending in tracker.endings] == [state]
    assert written(tmp_path / "out") == expected(LINES)


def test_a_run_is_followed_until_it_ends(run: Path, tmp_path: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running"}))
    journal(run, [])
    left = list(LINES)

    def wait(seconds: float) -> None:
        """The run writes three lines, the last one in two pieces."""
        text = "".join(json.dumps(left.pop(0)) + "\n" for _ in range(min(3, len(left))))
        with (run / "metrics.jsonl").open("a") as file:
            file.write(text[:-10])
            file.flush()
            file.write(text[-10:])
        if not left:
            (run / "status.json").write_text(json.dumps(status))

    tracker = FakeTracker(tmp_path / "out")
    assert send_run(run, "fake", tracker, follow=True, wait=wait) == len(LINES)
    assert written(tmp_path / "out") == expected(LINES) and tracker.endings[0].state == "finished"


def test_two_processes_do_not_send_one_run(run: Path, tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(DiskError, match="another process is sending this run"):
            send_run(run, "fake", FakeTracker(tmp_path / "other"))

    once: list[Callable[[], None]] = [second]
    send_run(run, "fake", FakeTracker(tmp_path / "out", lambda: once.pop()() if once else None))
    assert not once and not (tmp_path / "other").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"offset": 3}', '{"ledger": 4}'])
def test_what_was_sent_is_not_guessed(run: Path, tmp_path: Path, text: str) -> None:
    (run / "track").mkdir()
    (run / "track" / "fake.json").write_text(text)
    with pytest.raises(DiskError, match=r"fake.json: cannot be used .*; remove it"):
        send_run(run, "fake", FakeTracker(tmp_path / "out"))


def test_secrets_and_links_stay_here(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.html").symlink_to(tmp_path / "secret")
    (run / "recipe.yaml").write_text("api_key: topsecret\nmodel: hf_abcdefghijklmnopqrstuvwxyz\n")
    tracker = FakeTracker(tmp_path / "out")
    send_run(run, "fake", tracker)
    assert "topsecret" not in str(tracker.about) and "hf_abc" not in str(tracker.about)
    assert "report.html" not in {path.name for path in tracker.endings[0].files}


def test_entries() -> None:
    line = {"kind": "update", "step": 3, "time": "2026-01-01T00:00:01Z", "loss": None, "lr": 0.5, "skipped": True,
            "noise_scale_low": 3, "nonfinite": True}  # fmt: skip
    figures = {"train/lr": 0.5, "train/skipped": 1.0, "train/noise_scale_low": 3.0}
    assert entry_of(line, 8) == Entry(number=8, step=3, seconds=1767225601.0, figures=figures)  # type: ignore[arg-type]

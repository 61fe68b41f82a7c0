from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random

import pytest

from bigbatch.errors import UsageError
from bigbatch.watch.curves import MOST_PLACES, Curve
from bigbatch.watch.observed import Observed
from bigbatch.watch.runs import Runs, key_of
from bigbatch.watch.server import WatchServer
from tests.damage import inside, whole_file
from tests.report.fake_run import records, write_run


def observed(folder: Path) -> Observed:
    run = Observed(folder)
    run.look()
    return run


def test_a_run_is_followed_while_it_is_written(tmp_path: Path) -> None:
    """Line by line, with torn ends: at the end the same as when it is read at once."""
    folder, lines = write_run(tmp_path / "run"), records()
    (folder / "metrics.jsonl").write_bytes(b"")
    run = Observed(folder)
    for number, line in enumerate(lines):
        text = json.dumps(line).encode() + b"\n"
        for part in (text[:40], text[40:]):
            with (folder / "metrics.jsonl").open("ab") as file:
                file.write(part)
            run.look()
        assert run.journal.records == number + 1
    whole = observed(folder)
    assert run.journal == whole.journal
    assert whole.journal.updates["loss"].count == 87 and whole.journal.skipped == 1  # one was not finite
    assert whole.journal.updates["loss"].last == lines[-3]["loss"]
    assert whole.journal.evaluations["test"]["f1_macro"].last == lines[-1]["f1_macro"]
    assert [event["event"] for _, event in whole.journal.events] == ["nonfinite", "resumed"]


def test_a_resume_that_took_records_back_takes_them_off_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    run = observed(folder)
    text = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "new").write_bytes(b"".join(text[:20]))
    os.replace(folder / "new", folder / "metrics.jsonl")
    run.look()
    assert run.journal.records == 20 and run.journal == observed(folder).journal


def test_curves_hold_every_peak_in_bounded_memory() -> None:
    curve = Curve()
    for x in range(100_000):
        curve.add(float(x), 50.0 if x == 77_777 else (x % 10) / 10)
    places = curve.means()
    assert len(places) <= MOST_PLACES and curve.count == 100_000
    assert sum(y for _, y in places) / len(places) == pytest.approx(0.4505, abs=0.002)
    assert max(y for _, y in curve.extremes()) == 50.0
    assert [x for x, _ in places] == sorted(x for x, _ in places) and places[-1][0] == 99_999


def test_states(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    status = json.loads((folder / "status.json").read_text()) | {"state": "running"}
    (folder / "status.json").write_text(json.dumps(status))
    newest = max((folder / name).stat().st_mtime for name in ("status.json", "metrics.jsonl"))
    for age, state in ((5, "running"), (600, "silent")):
        run = Observed(folder, clock=lambda age=age: newest + age)
        run.look()
        assert (run.state, run.quiet_seconds) == (state, pytest.approx(age, abs=0.1))
    assert observed(write_run(tmp_path / "done")).state == "finished"


def test_ranks_of_the_newest_start(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "logs").mkdir()
    for rank, restart, size in ((0, 1, 2), (1, 1, 2), (2, 1, 4), (3, 0, 4)):
        sign = {"rank": rank, "size": size, "host": f"h{rank}", "pid": 7, "restart": restart, "update": 5, "phase": "reduce",
                "beats": 1, "ticks": 3, "at": 100.0}  # fmt: skip
        (folder / "logs" / f"beat-{rank:04d}.json").write_text(json.dumps(sign))
    (folder / "logs" / "beat-0009.json").write_text("{")
    run = Observed(folder, clock=lambda: 107.0)
    run.look()
    assert [(one.rank, one.phase, one.age_seconds) for one in run.ranks] == [
        (0, "reduce", 7.0),
        (1, "reduce", 7.0),
    ]


@pytest.mark.parametrize("name", ["metrics.jsonl", "status.json", "plan.json", "result.json", "recipe.yaml"])
@pytest.mark.parametrize("what", ["link", "pipe", "folder", "garbage", "deep", "gone"])
def test_whatever_lies_in_a_files_place_is_said_and_nothing_fails(
    tmp_path: Path, name: str, what: str
) -> None:
    folder, secret = write_run(tmp_path / "run"), tmp_path / "secret"
    secret.write_text('{"kind": "event", "step": 0, "event": "SECRET", "state": "failed"}\n')
    (folder / name).unlink()
    match what:
        case "link":
            (folder / name).symlink_to(secret)
        case "pipe":
            os.mkfifo(folder / name)
        case "folder":
            (folder / name).mkdir()
        case "garbage":
            (folder / name).write_bytes(b"\xff\x00{" * 100 + b"\n")
        case "deep":
            (folder / name).write_bytes(b"[" * 100_000 + b"\n")
    run = observed(folder)
    told = " ".join(run.problems)
    harmless = what == "gone" or (name == "recipe.yaml" and what in ("garbage", "deep"))
    assert (name in told) == (not harmless)
    assert "SECRET" not in repr(run.journal) + repr(run.documents) + run.recipe
    assert run.folder == folder and run.state in ("finished", "unknown")


def test_runs_below_folders_are_found_and_links_are_not_followed(tmp_path: Path) -> None:
    for place in ("runs/a", "runs/sweep/points/b", "elsewhere/c"):
        write_run(tmp_path / place)
    (tmp_path / "runs/c").symlink_to(tmp_path / "elsewhere/c")
    (tmp_path / "runs/a/model").mkdir(exist_ok=True)
    runs = Runs([tmp_path / "runs"])
    found = {str(path.relative_to(tmp_path)) for path in runs.find().values()}
    assert found == {"runs/a", "runs/sweep/points/b"}
    assert runs.name_of(tmp_path / "runs/sweep/points/b") == "sweep/points/b"
    assert runs.observed([key_of(tmp_path / "elsewhere/c"), "../../etc"]) == []
    with pytest.raises(UsageError, match="there is no such folder"):
        Runs([tmp_path / "none"])


def test_of_many_runs_those_that_were_touched_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first by name, wherever they lie; and a loop of links, or a pipe, is no folder."""
    monkeypatch.setattr("bigbatch.watch.runs.MOST_RUNS", 3)
    for number in range(12):
        folder = tmp_path / f"runs/{'deep/' if number % 2 else ''}run{number:02d}"
        folder.mkdir(parents=True)
        (folder / "status.json").write_text("{}")
        os.utime(folder / "status.json", (1e9 + number, 1e9 + number))
    (tmp_path / "runs/again").symlink_to(tmp_path / "runs")
    os.mkfifo(tmp_path / "runs/a-pipe")
    found = [folder.name for folder in Runs([tmp_path / "runs"]).find().values()]
    assert found == ["run11", "run10", "run09"]


def test_of_stages_the_last_that_has_begun(tmp_path: Path) -> None:
    write_run(tmp_path / "run/stages/1-first")
    (tmp_path / "run/recipe.yaml").write_text("model: x\n")
    stages = [{"name": "first", "folder": "1-first"}, {"name": "second", "folder": None}]
    (tmp_path / "run/stages.json").write_text(json.dumps({"stages": stages}))
    assert observed(tmp_path / "run").journal.records == len(records())
    stages[1]["folder"] = "../../../etc"
    (tmp_path / "run/stages.json").write_text(json.dumps({"stages": stages}))
    assert observed(tmp_path / "run").folder == tmp_path / "run"


@pytest.mark.parametrize("name", ["metrics.jsonl", "status.json", "plan.json", "result.json"])
def test_a_run_that_is_damaged_while_it_is_watched(tmp_path: Path, name: str) -> None:
    """Figures are told at every moment and the page is drawn at many: the file whole, damaged in every way, and whole."""
    folder = write_run(tmp_path / "run")
    content = (folder / name).read_bytes()
    key = key_of(folder)
    with WatchServer([folder]) as server:
        sound = server.page.whole([key], "nonce")
        random = Random(sum(map(ord, name)))
        for what, damage in [*whole_file(content), *inside(folder / name, content, 3, random)]:
            damage(folder / name)
            json.dumps(server.page.figures([key]))
            if random.random() < 0.1:  # drawing takes its time
                assert server.page.whole([key], "nonce").endswith("</html>"), what
            _clear(folder / name)
            (folder / name).write_bytes(content)
        assert len(server.page.whole([key], "nonce")) == pytest.approx(len(sound), rel=0.02)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

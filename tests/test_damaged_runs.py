"""Whatever lies in a run directory: no command ends in a traceback or waits for ever, and nothing else is lost.

The ordinary test tries some kinds of damage to each file, with one command after the other; the slow one goes
through the product of all files, ways and commands, or every 13th of it: DAMAGE_EVERY=1 tries the whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import bigbatch
from bigbatch.cli.app import app
from bigbatch.cli.outcome import guarded
from bigbatch.errors import BigbatchError
from tests.damage import CONTENTS, Damage, inside, whole_file
from tests.run.jobs import tiny_model, write_job

EVERY = int(os.environ.get("DAMAGE_EVERY", "13"))
"""Of the product that the slow test goes through; 1, the whole of it, takes about ten minutes."""
SECONDS = 60
"""For one command; it takes about half of one, where nobody else computes."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "recipe.yaml"),
    "report": ("report", "runs/job"),
    "compare": ("compare", "runs/job", "runs/other"),
    "plan": ("plan", "recipe.yaml"),
    "evaluate": ("evaluate", "runs/job", "test.csv"),
    "predict": ("predict", "runs/job", "test.csv", "--out", "predicted.jsonl"),
    "read": (),
}
READS: dict[str, tuple[str, ...]] = {
    "model": ("evaluate", "predict"),
    "checkpoints": ("train", "evaluate"),
    ".cache": ("train", "plan"),
    "recipe.yaml": ("train", "report", "evaluate", "compare", "predict", "read"),
    "plan.json": ("train", "report", "evaluate", "compare", "predict", "read"),
}
"""Who reads what is in a folder, or a file; of all others: the next line."""
OTHERS = ("train", "report", "compare", "read")
UPDATES = 6
SETTINGS: dict[str, Any] = {
    "updates": UPDATES,
    "data": {"train": "train.csv", "validation": 0.2, "test": "test.csv"},
    "run": {"dir": "runs/job", "evaluate_every": "3 updates", "checkpoint_every": "2 updates", "keep": 2},
}


class Hangs(BaseException):
    """A command took longer than it may."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with a job each: one that has finished, one that was left after update 4."""
    folder = tmp_path_factory.mktemp("kept")
    model = tiny_model(folder / "model")
    with contextlib.chdir(folder):
        for name in ("finished", "interrupted"):
            job = write_job(folder / name, model, **SETTINGS)
            for file, rows in (("train.csv", 61), ("test.csv", 11)):
                lines = (job.folder / file).read_text().splitlines(keepends=True)
                (job.folder / file).write_text("".join(lines[:rows]))
            os.chdir(job.folder)
            if name == "finished":
                assert _command("train", "recipe.yaml")[0] == 0
                continue
            with bigbatch.start("recipe.yaml") as run:
                for record in run:
                    if record.kind == "update" and record.step == 4:
                        break
            holder = {"host": "h", "pid": 2**22 - 3, "process_start": "1", "machine": "m"}
            (job.run / "lock.json").write_text(json.dumps({**holder, "job_id": None, "token": "t"}))
            os.utime(job.run / "lock.json", (1, 1))
    return folder


@pytest.fixture(autouse=True)
def _back() -> Iterator[None]:
    with contextlib.chdir(os.getcwd()):
        yield


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_damaged_file_never_ends_in_a_traceback(kept, tmp_path, state):
    """Each fifth way, so that each file and each kind of damage is met, by one command after the other."""
    cases = list(_cases(kept / state, state, per_file=2, random=Random(1)))[::5]
    tried = [
        (name, what, damage, commands[at % len(commands)])
        for at, (name, what, damage, commands) in enumerate(cases)
    ]
    assert {what for _, what, _, _ in tried} >= {*CONTENTS, "a folder", "a named pipe", "a dangling link"}
    _assert_survived(kept / state, tmp_path / "job", tried)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("state", [pytest.param("finished", marks=pytest.mark.stress), "interrupted"])
def test_no_damage_to_any_file_ends_any_command_in_a_traceback(kept, tmp_path, state):
    cases = _cases(kept / state, state, per_file=6, random=Random(2))
    tried = [(name, what, damage, command) for name, what, damage, commands in cases for command in commands]
    _assert_survived(kept / state, tmp_path / "job", tried[::EVERY])


def _cases(
    folder: Path, state: str, *, per_file: int, random: Random
) -> Iterator[tuple[str, str, Damage, tuple[str, ...]]]:
    """(file, what is done to it, that, the commands that read it)."""
    run = folder / "runs" / "job"
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock-guard"]
    files += sorted((folder / "runs" / ".cache" / "tokens").glob("*/*"))[:3]
    for path in files:
        part = path.relative_to(run).parts[0] if path.is_relative_to(run) else ".cache"
        commands = READS.get(part, OTHERS)
        if state == "interrupted":  # it has no model to predict with, but checkpoints to evaluate
            commands = tuple(each for each in commands if each != "predict")
        content = path.read_bytes()
        ways = [*whole_file(content), *inside(path, content, per_file, random)]
        for what, damage in ways:
            yield str(path.relative_to(folder)), what, damage, commands


def _assert_survived(kept: Path, folder: Path, tried: Any) -> None:
    failed = []
    for name, what, damage, command in tried:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        shutil.copytree(folder / "runs" / "job", folder / "runs" / "other")
        records = (folder / "runs" / "job" / "metrics.jsonl").read_bytes().splitlines()
        os.chdir(folder)
        damage(folder / name)
        before = _files(folder)
        code, said = _read() if command == "read" else _command(*COMMANDS[command])
        trouble = _trouble(code, said) or _lost(folder, name, before, command, records)
        if trouble:
            failed.append(f"{command} with {name}: {what}: {trouble}")
    os.chdir("/")
    assert not failed, f"{len(failed)} of {len(tried)}:\n" + "\n".join(failed)


def _trouble(code: int | str, said: str) -> str:
    if code not in (0, 2, 3, 4, 5, 6) or "Traceback" in said:
        return f"ended with {code}:\n{said[-1500:]}"
    return "" if code == 0 or said.strip() else f"ended with {code} and said nothing"


def _lost(folder: Path, name: str, before: dict[str, bytes], command: str, records: list[bytes]) -> str:
    """What is gone or changed of what lay there once the damage was done."""
    after = _files(folder)
    if command != "train":
        own = {"report": ("runs/job/report.html",), "compare": ("runs/comparison.html",)}.get(command, ())
        # Tokens that are damaged are made anew, by whichever command needs them.
        own = (*own, "runs/.cache/")
        changed = [path for path in before if after.get(path) != before[path] and not path.startswith(own)]
        return f"changed or lost {changed}" if changed else ""
    # Training writes its own files anew and removes old checkpoints; what was recorded and what is not its own stays.
    # A cache may be deleted at any time, with all that lies in it.
    theirs = [path for path in before if path.endswith("/kept") and not path.startswith("runs/.cache/")]
    if theirs and not any(path.endswith("/kept") for path in after):
        return "removed what lay in a folder"
    stayed = b"".join(content for path, content in after.items() if "/job/metrics." in path)
    gone = [line for line in records if line not in stayed]
    if gone and not name.endswith("metrics.jsonl"):
        return f"lost {len(gone)} records"
    changed = [path for path in ("runs/job/recipe.yaml", "recipe.yaml", "train.csv") if path != name]
    return "".join(f"changed {path}" for path in changed if after.get(path) != before[path])


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.name.startswith((".lock", "lock.json"))
    }


def _read() -> tuple[int | str, str]:
    try:
        with _limited():
            bigbatch.read("runs/job")
    except BigbatchError as error:
        return error.exit_code, str(error)
    except Hangs:
        return "hangs", ""
    except Exception as error:
        return 1, f"Traceback {error!r}"
    return 0, ""


def _command(*words: str) -> tuple[int | str, str]:
    """A command line in this process: its exit code, and all that it said."""
    said = io.StringIO()
    try:
        with _limited(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code: int | str = guarded(
                lambda: app(args=list(words), prog_name="bigbatch", standalone_mode=False),
                lambda text: print(text, file=said),
            )
    except Hangs:
        code = "hangs"
    return code, said.getvalue()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

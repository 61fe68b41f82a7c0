"""Children of a warm process: `bigbatch …` without the seconds of importing, killed at a named place if wanted.

`Forks` (in the test) starts `python -m tests.run.forks`, which imports everything, computes nothing, and forks
one child a request. A child is a process like any other: own pid, own signals, `bigbatch.cli.main` and its
exit code.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.sources import source_folder

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Kill:
    """SIGKILL at the `nth` call of a function."""

    target: str
    """`module:name` or `module:Class.method`, where it is looked up."""
    nth: int = 1
    when: str = "before"
    """`before` or `after` the call, or `half`: in a write that has reached the disk in part."""
    about: str = ""
    """Counts only calls with an argument that has this text in it."""
    signal: int = signal.SIGKILL
    """SIGTERM or SIGINT make it a request instead."""

    def __str__(self) -> str:
        name = self.target.rpartition(":")[2]
        return f"{self.when} {name}({self.about}) number {self.nth}"


@dataclass
class Child:
    """A running child."""

    pid: int
    output_file: Path
    _code: Callable[[], int]

    def wait(self) -> int:
        """Its exit code, -9 when it was killed."""
        return self._code()

    @property
    def output(self) -> str:
        return self.output_file.read_text(errors="replace")


class Forks:
    """The parent, seen from a test."""

    def __init__(self) -> None:
        path = os.pathsep.join([source_folder(), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.run.forks"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, folder: Path, words: Sequence[str], *kills: Kill) -> Child:
        """`bigbatch <words>` in a folder; one child at a time."""
        assert self._process.stdin is not None
        output = folder / "output.log"
        request = {
            "folder": str(folder),
            "words": list(words),
            "output": str(output),
            "kills": [asdict(kill) for kill in kills],
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Child(self._read(), output, self._read)

    def run(self, folder: Path, words: Sequence[str], *kills: Kill) -> tuple[int, str]:
        """The same, to its end: exit code and output."""
        child = self.start(folder, words, *kills)
        return child.wait(), child.output

    def close(self) -> None:
        """End the parent."""
        self._process.communicate()

    def _read(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def forks() -> Iterator[Forks]:
    """A warm parent for a test module."""
    parent = Forks()
    try:
        yield parent
    finally:
        parent.close()


# ---------------------------------------------------------------- the parent's side


def install(kill: Kill) -> None:
    """Wrap the function that `kill` names."""
    module, _, path = kill.target.partition(":")
    holder: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    original = getattr(holder, name)
    count = 0

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        about = [getattr(value, "name", "") if hasattr(value, "fileno") else str(value) for value in args]
        count += any(kill.about in text for text in about)
        hit = any(kill.about in text for text in about) and count == kill.nth
        if hit and kill.when == "half":
            handle, data = args[-2:]
            handle.write(bytes(data)[: len(data) // 2])
        if hit and kill.when != "after":
            os.kill(os.getpid(), kill.signal)
        found = original(*args, **kwargs)
        if hit and kill.when == "after":
            os.kill(os.getpid(), kill.signal)
        return found

    setattr(holder, name, wrapped)


def _child(request: dict[str, Any]) -> None:
    os.chdir(request["folder"])
    with open(request["output"], "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for kill in request["kills"]:
        install(Kill(**kill))
    from bigbatch.cli import main

    code: Any = 1
    try:
        main(request["words"])
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _serve() -> None:
    for name in (
        "bigbatch.api",
        "bigbatch.commands",
        "bigbatch.cli.app",
        "bigbatch.run.start",
        "pandas",  # pyarrow imports it at the first scalar
        "transformers.models.bert.modeling_bert",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
    ):
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()

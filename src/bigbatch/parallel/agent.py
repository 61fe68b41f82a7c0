"""Starts the workers of one machine, watches them, starts them again: torchrun's agent, without its noise.

    python -m bigbatch.parallel.agent [--everybody-hears] LAUNCH_FOLDER WAY ADDRESS WORDS…      the words are torchrun's

It ends when its standard input does: whoever started it holds the other end, here or over SSH, so that no worker
outlives a launcher that was killed. A number that comes in is a signal to pass on.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

from bigbatch.processes import parent_of
from bigbatch.stored import Damaged, read_object
from bigbatch.written import replace_text

HEARD_SECONDS = 2.0
_MOST_BYTES = 2**20
"""Of what a worker wrote down of itself."""


class Forwarding:
    """The first signal goes to the workers, which save and leave; a second one ends everything.

    Where `everybody_hears`, as under Slurm, whoever signals this process signals its workers too.
    """

    def __init__(self, folder: Path, *, everybody_hears: bool = False) -> None:
        self._folder = folder
        self._everybody_hears = everybody_hears
        self._first: int | None = None

    def install(self) -> None:
        """For the signals that ask to end; closing standard input counts as SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        threading.Thread(target=self._watch_input, name="launcher", daemon=True).start()

        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._end_now)
            signal.signal(signal.SIGUSR2, self._start_again)

    def _end_now(self, _number: int, _frame: FrameType | None) -> None:
        self._send(signal.SIGKILL)
        os._exit(6)

    def _start_again(self, _number: int, _frame: FrameType | None) -> None:
        """The workers wait for a machine that is gone: their end makes the group start again without it."""
        self._send(signal.SIGKILL)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again = self._first is not None
        self._first = number
        if self._everybody_hears:
            return
        self._send(signal.SIGKILL if again else number)
        if again:
            os._exit(128 + number)

    def _send(self, number: int) -> None:
        for pid in workers(self._folder):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _watch_input(self) -> None:
        with suppress(OSError):
            while said := os.read(0, 4096):
                for word in said.split():
                    with suppress(ValueError):
                        self._told(int(word))
        self._told(signal.SIGTERM)

    def _told(self, number: int) -> None:
        """By the launcher, over standard input."""
        if not self._everybody_hears:
            os.kill(os.getpid(), number)
            return
        # Who signals the launcher may be about to signal the workers too; a second signal would end them unsaved.
        time.sleep(HEARD_SECONDS)
        if self._first is None:
            self._first = number
            self._send(number)


def host_name() -> str:
    """How the user calls this machine."""
    return os.environ.get("BIGBATCH_HOST") or socket.gethostname()


def workers(folder: Path) -> list[int]:
    """Process ids of this agent's workers: its children where the system lists them, else those that said so."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += [int(pid) for pid in path.read_text().split()]
    # Another container may hold another process of that number, and its agent have ours.
    found += [pid for pid in _said(folder, "pid") if parent_of(pid) == os.getpid()]
    return sorted(set(found))


def _said(folder: Path, key: str) -> list[int]:
    """A number that workers wrote down of themselves; a file that is half written or damaged says nothing."""
    found = []
    for path in folder.glob("worker-*.json"):
        with suppress(OSError, Damaged):
            number = read_object(path, most_bytes=_MOST_BYTES).get(key)
            if isinstance(number, int) and 0 <= number < 2**31:
                found.append(number)
    return found


def main(words: list[str]) -> int:
    """Run the group; 0 when all workers ended well."""
    everybody_hears = words[0] == "--everybody-hears"
    words = words[1:] if everybody_hears else words
    folder, way, address, *words = Path(words[0]), *words[1:]
    Forwarding(folder, everybody_hears=everybody_hears).install()
    logging.disable(logging.CRITICAL)
    _allow_many_files()
    # Workers look for modules where they are installed and not where the user happens to be.
    os.environ["PYTHONSAFEPATH"] = "1"
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.run import parse_args, run

    from bigbatch.parallel.meeting import BACKEND, Rendezvous

    rendezvous_handler_registry.register(BACKEND, partial(Rendezvous, folder, way, address, os.environ))
    try:
        given = parse_args([f"--rdzv-backend={BACKEND}", *words])
        # Its own handlers would end the workers again, and then kill them, while they save.
        given.signals_to_handle = ""
        run(given)
    except ChildFailedError as error:
        _write_down(folder, error)
        return 1
    except Exception as error:
        replace_text(
            folder / f"agent-failed-{host_name()}.txt", f"{type(error).__name__}: {error}", durable=False
        )
        return 6
    return 0


def _allow_many_files() -> None:
    """A stranger who opens a thousand connections to gloo would else end the worker that cannot open one more."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _write_down(folder: Path, error: object) -> None:
    """What happened to workers that could not say it themselves."""
    found = [
        {
            "rank": rank,
            "host": host_name(),
            "pid": failure.pid,
            "exit_code": failure.exitcode,
            "message": "ended without a word",
            "at": float(failure.timestamp or time.time()),
        }
        for rank, failure in error.failures.items()  # type: ignore[attr-defined]
    ]
    left = [path.name.split("-")[1] for path in folder.glob("ending-*-*.json")]
    started = [int(number) for number in left if number.isdecimal() and len(number) < 10]
    restart = max([0, *started, *_said(folder, "restart")])
    path = folder / f"agent-{restart}-{host_name()}-{os.getpid()}.json"
    replace_text(path, json.dumps(found), durable=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Groups of real processes for tests: forked from a warm one, joined by gloo, gone after each job.

`Ranks` (in the test) starts `python -m tests.ranks`, which imports everything and computes nothing. A job is a function
`(world, **JSON) -> JSON`; each rank is a child that joins the group, calls it and leaves what it returned.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.sources import source_folder

ROOT = Path(__file__).resolve().parents[1]
WARM = (
    "torch",
    "torch.distributed",
    "transformers",
    "bigbatch.run.start",
    "bigbatch.parallel.enter",
    "transformers.models.bert.modeling_bert",
    "pandas",  # pyarrow imports it at the first scalar
    "tests.split",
)


class RankFailed(AssertionError):
    """A rank raised, or did not end."""

    def __init__(self, words: str, codes: list[int]) -> None:
        super().__init__(words)
        self.codes = codes
        """Exit code of each rank; a signal's number, negative."""


class Ranks:
    """The warm process, seen from a test."""

    def __init__(self) -> None:
        path = os.pathsep.join([source_folder(), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ranks"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: str, size: int, folder: Path, *, seconds: float = 120.0, **given: Any) -> list[Any]:
        """What each rank's `job` (`module:function`) returned, in rank order.

        torch's gloo collectives on DTensors segfault now and then, inside torch: such a job is tried once
        more, and says so.

        Raises:
            RankFailed: with the tracebacks of the ranks that failed.
        """
        try:
            return self._run(job, size, folder, seconds=seconds, **given)
        except RankFailed as error:
            if -signal.SIGSEGV not in error.codes:
                raise
            print(f"{job}: a rank segfaulted; tried once more", file=sys.stderr)
            return self._run(job, size, folder, seconds=seconds, **given)

    def _run(self, job: str, size: int, folder: Path, *, seconds: float, **given: Any) -> list[Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        folder = folder / f"{job.rpartition(':')[2]}-{size}-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        request = {"job": job, "size": size, "folder": str(folder), "seconds": seconds, "given": given}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            logs = "\n".join(
                f"--- rank {rank}\n{(folder / f'{rank}.log').read_text()[-3000:]}" for rank in failed
            )
            raise RankFailed(f"ranks {failed} ended with {codes}\n{logs}", codes)
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _child(request: dict[str, Any], rank: int, port: int) -> None:
    """One rank: join, work, leave. Ends the process."""
    folder, size = Path(request["folder"]), request["size"]
    log = os.open(folder / f"{rank}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.alarm(int(request["seconds"]))
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    code = 1
    try:
        _refuse_pickles()
        from bigbatch.parallel.enter import enter
        from bigbatch.places import Place

        module, _, name = request["job"].partition(":")
        work = getattr(importlib.import_module(module), name)
        place = Place(rank=rank, size=size, local_rank=rank, local_size=size)
        world = enter(place, device="cpu", timeout_seconds=60.0)
        found = work(world, **request["given"])
        (folder / f"{rank}.json").write_text(json.dumps(found))
        world.close()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _refuse_pickles() -> None:
    """What a peer says is never unpickled, by torch neither: all its collectives of objects pass through here."""
    from torch.distributed import distributed_c10d

    def refuse(*_: Any) -> None:
        raise AssertionError("a peer's bytes were about to be unpickled")

    assert hasattr(distributed_c10d, "_tensor_to_object")
    distributed_c10d._tensor_to_object = refuse


def _serve() -> None:
    for module in WARM:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        port = free_port()
        children = []
        for rank in range(request["size"]):
            pid = os.fork()
            if not pid:
                _child(request, rank, port)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    _serve()

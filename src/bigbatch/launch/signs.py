"""Who writes signs of life where, and who watches a group that nobody of ours started: its first two ranks."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from bigbatch.launch.watch import Watcher
from bigbatch.launch.worker import Worker
from bigbatch.places import Place
from bigbatch.processes import descends
from bigbatch.run.beat import NO_BEAT, Beat
from bigbatch.store.durable import make_folders


def signs_of_life(place: Place | None, environ: Mapping[str, str] | None = None) -> Beat:
    """The beat of this process; that of a worker goes to the launch folder from now on."""
    if place is None or place.size == 1:
        return NO_BEAT
    worker = Worker.of(environ)
    environ = os.environ if environ is None else environ
    beat = Beat(
        rank=place.rank,
        size=place.size,
        host=socket.gethostname() if worker is None else worker.host,
        restart=int(environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
    )
    if worker is not None:
        beat.begin(worker.folder)
    return beat


def watched_from_inside(beat: Beat, run_folder: Path, size: int) -> None:
    """Under somebody else's launcher: signs go to the run directory; rank 0 watches all others, rank 1 watches it.

    Args:
        beat: this rank's signs of life.
        run_folder: the run directory, on a disk that all ranks see.
        size: number of ranks; a single one has nobody to watch it.
    """
    if size == 1:
        return
    folder = run_folder / "logs"
    make_folders(folder)
    beat.begin(folder)
    if beat.rank > 1:
        return
    watcher = Watcher(
        folder,
        lambda text: print(f"bigbatch: {text}", file=sys.stderr, flush=True),
        of=lambda sign: (sign.rank == 0) == (beat.rank == 1),
        # Ranks of one machine have one parent. The folder is the run's, where others may write.
        is_ours=lambda pid: descends(pid, os.getppid()),
    )
    beat.closing.enter_context(watcher)

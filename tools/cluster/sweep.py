"""The janitor: removes namespaces, processes and folders whose session is gone. `python -m tools.cluster.sweep`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "bbc-"
"""Of everything that a cluster makes; the process id of its session follows."""


def sweep() -> list[str]:
    """Remove what sessions left that are no more; the names of their namespaces."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split("\n")
    names = [line.split()[0] for line in listed if line.startswith(PREFIX)]
    owned = [(name, re.match(rf"{PREFIX}(\d+)-", name)) for name in names]
    orphans = [name for name, owner in owned if owner and not Path(f"/proc/{owner[1]}").exists()]
    for name in orphans:
        remove(name)
    if orphans and len(orphans) == len(names):
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)
    return orphans


def remove(namespace: str) -> None:
    """End what runs in a namespace and remove it; none by that name is fine."""
    for pid in pids_of(namespace):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


def pids_of(namespace: str) -> list[int]:
    """Processes in a network namespace, in ascending order."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return sorted(int(pid) for pid in listed.stdout.split())


if __name__ == "__main__":
    for found in sweep():
        print(f"removed {found}")

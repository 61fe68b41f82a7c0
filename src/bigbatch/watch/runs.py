"""The run directories below the folders that were named, and those of them that are looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from bigbatch.errors import UsageError
from bigbatch.watch.observed import Observed

MOST_RUNS = 500
"""That are shown: those that were touched last."""
_MOST_LOOKED = 20_000
"""Folders that are looked into, so that a look ends: 10,000 runs take .2 s of processor time."""
MOST_KEPT = 16
"""Runs whose curves stay in memory, so that choosing them again reads nothing twice."""
_DEPTH = 3
"""Levels of folders that are searched: runs, sweeps of runs, and a folder of both."""
_SIGNS = ("recipe.yaml", "metrics.jsonl", "status.json", "result.json")
_INSIDE = ("checkpoints", "model", "logs", "code", "stages", "samples", "derived", "points.lost")


class Runs:
    """What is to be seen. A folder may be named that holds no run yet."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Look which folders there are.

        Raises:
            UsageError: one that is not there, or is no folder.
        """
        for root in roots:
            if not root.is_dir():
                raise UsageError(
                    f"{root}: there is no such folder; name a run directory, or a folder of them"
                )
        self._roots = [root.resolve() for root in roots]
        self._observed: dict[str, Observed] = {}
        self._lists: dict[str, Observed] = {}
        """For their states; no journal is read."""

    def find(self) -> dict[str, Path]:
        """Key -> run directory, the one that was touched last first; at most `MOST_RUNS`."""
        found: dict[str, float] = {}
        for root in self._roots:
            found.update(islice(_runs_below(str(root), _DEPTH), _MOST_LOOKED - len(found)))
        newest = sorted(found, key=lambda folder: (-found[folder], folder))[:MOST_RUNS]
        keys = {key_of(folder): folder for folder in map(Path, newest)}
        self._lists = {key: self._lists.get(key) or Observed(folder) for key, folder in keys.items()}
        return keys

    def observed(self, keys: Sequence[str]) -> list[Observed]:
        """Those runs, looked at now; keys of none are passed over. The oldest of more than `MOST_KEPT` are let go.

        Args:
            keys: as `find` has them.
        """
        found = self.find()
        wanted = [key for key in dict.fromkeys(keys) if key in found]
        for key in wanted:
            self._observed[key] = self._observed.pop(key, None) or Observed(found[key])
            self._observed[key].look()
        for key in list(self._observed)[:-MOST_KEPT]:
            del self._observed[key]
        return [self._observed[key] for key in wanted]

    def state_of(self, key: str) -> str:
        """Of a run that `find` has seen, by its small files alone."""
        return self._lists[key].glance()

    def name_of(self, folder: Path) -> str:
        """The folder's name; below the root that was named, where it lies deeper."""
        for root in self._roots:
            if folder != root and folder.is_relative_to(root):
                return str(folder.relative_to(root))
        return folder.name


def key_of(folder: Path) -> str:
    """What a run is called in addresses: a page names no path."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]


def _runs_below(folder: str, depth: int) -> Iterator[tuple[str, float]]:
    touched = [_touched(os.path.join(folder, name)) for name in _SIGNS]
    if any(touched):
        yield folder, max(touched)
        return
    if depth == 0:
        return
    try:
        with os.scandir(folder) as entries:
            below = sorted(
                entry.path
                for entry in islice(entries, _MOST_LOOKED)
                if entry.is_dir(follow_symlinks=False)
                and not entry.name.startswith(".")
                and entry.name not in _INSIDE
            )
    except OSError:
        return
    for path in below:
        yield from _runs_below(path, depth - 1)


def _touched(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0

"""What a run directory holds that cannot be used is named and set aside, before anything relies on it."""

from __future__ import annotations

import stat
from collections.abc import Callable

from bigbatch.documents import DOCUMENTS, read_document
from bigbatch.plan.frozen import Plan
from bigbatch.store.directory import RunDirectory
from bigbatch.store.durable import set_aside
from bigbatch.stored import Damaged

_FOLDERS = ("checkpoints", "model", "code", "logs")
_FILES = ("recipe.yaml", "metrics.jsonl", "report.html")


def mend(directory: RunDirectory) -> list[str]:
    """Give every damaged file a name that nobody reads; the run writes it anew, or goes on without.

    Only while holding the lock. Checkpoints and the lines of metrics.jsonl are judged one by one by their readers.

    Returns:
        A sentence for each: `plan.json is nested deeper than 64 levels: it is now plan.json.damaged-1`.

    Raises:
        DiskError: one cannot be renamed.
    """
    if not directory.writes:
        return []
    checks: dict[str, Callable[[], object]] = {
        **{name: lambda name=name: read_document(directory.path / name) for name in DOCUMENTS},
        "plan.json": lambda: Plan.from_json(read_document(directory.plan)),
        **{name: lambda name=name: _expect(directory, name, stat.S_ISREG, "a plain file") for name in _FILES},
        **{name: lambda name=name: _expect(directory, name, stat.S_ISDIR, "a folder") for name in _FOLDERS},
    }
    said = []
    for name, check in checks.items():
        try:
            check()
        except FileNotFoundError:
            if not (directory.path / name).is_symlink():
                continue
            why = "leads nowhere"
        except Damaged as error:
            why = str(error)
        else:
            continue
        aside = set_aside(directory.path / name, ops=directory.ops)
        said.append(f"{name} {why}: it is now {aside.name}")
    return said


def _expect(directory: RunDirectory, name: str, right: Callable[[int], bool], what: str) -> None:
    if not right((directory.path / name).stat().st_mode):
        raise Damaged(f"is not {what}")

"""Weights & Biases: offline in RUN/track/wandb, unless `WANDB_MODE` says otherwise or you are signed in.

Its files are written by a process of its own and are whole only once a session has ended, and offline it cannot go on
with a run. So offline a session that was cut off, or that a later one adds to before it was synced, is replaced by one
that holds the run from its first record: `wandb sync` then finds each record once. Online the server knows how many
rows it has.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bigbatch.errors import DiskError
from bigbatch.protocols import Json
from bigbatch.track.entries import Entry
from bigbatch.track.kinds import About, Ending
from bigbatch.written import make_folder

_TRIES, _TRY_SECONDS = 20, 0.5


class Wandb:
    """A row for each record; `update` is the axis of all charts."""

    def open(self, about: About, kept: Json) -> bool:
        """Begin a session; offline ones that were not synced are taken back, and all is sent anew."""
        import wandb

        base = about.folder / "track"
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        self._offline = mode != "online"
        anew = self._offline and _take_back(base / "wandb", kept)
        make_folder(base / "wandb")
        resume = {} if self._offline else {"resume": "allow"}
        self._run = wandb.init(
            project=about.project,
            id=about.id,
            name=about.name,
            dir=str(base),
            mode="offline" if self._offline else "online",
            config={**about.settings, **{f"plan.{key}": text for key, text in about.plan.items()}},
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                init_timeout=60,
            ),
            **resume,
        )
        self._next = 0 if self._offline else int(self._run.step)
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")
        return anew

    def send(self, entries: Sequence[Entry]) -> Json:
        """Rows by the record's number; those that the server has are left out."""
        for entry in entries:
            if entry.number < self._next:
                continue
            row: dict[str, object] = {"update": entry.step, "seconds": entry.seconds, **entry.figures}
            row |= {"event": entry.event, "text": entry.text} if entry.event else {}
            self._run.log(row, step=entry.number)
        return Path(self._run.dir).parent.name if self._offline else self._run.id

    def finish(self, ending: Ending) -> Json:
        """Final figures as the summary; files as two artefacts, the model one of its own; the session ends."""
        import wandb

        name = Path(self._run.dir).parent.name if self._offline else self._run.id
        self._run.summary.update({**ending.figures, "state": ending.state})
        groups: Mapping[str, list[Path]] = {
            "run": [path for path in ending.files if path.parent.name != "model"],
            "model": [path for path in ending.files if path.parent.name == "model"],
        }
        for kind, paths in groups.items():
            if paths:
                artefact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
                for path in paths:
                    artefact.add_file(str(path), name=path.name)
                self._run.log_artifact(artefact)
        self._run.finish(exit_code=0 if ending.state == "finished" else 1)
        return name


def _take_back(folder: Path, kept: Json) -> bool:
    """Remove sessions that were not synced; whether any record has to be sent again."""
    if folder.is_symlink() or not folder.is_dir():
        return kept is not None
    sessions = [path for path in folder.glob("offline-run-*") if path.is_dir() and not path.is_symlink()]
    unsynced = [path for path in sessions if not any(path.glob("*.synced"))]
    for path in unsynced:
        # The server of a process that was killed may be writing there for a moment longer.
        for _ in range(_TRIES):
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(_TRY_SECONDS)
        else:
            raise DiskError(f"{path}: cannot be removed, to write this run anew; remove it, and try again")
    return bool(unsynced)

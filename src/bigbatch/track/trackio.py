"""Trackio: rows in its local database, each under a name of its own, which the database takes once.

`trackio.init` and `log` number rows by themselves, and a process that goes on with a run writes some of them again; so
rows go to the database directly, by the function that its own import uses.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from bigbatch.protocols import Json
from bigbatch.track.entries import Entry
from bigbatch.track.kinds import About, Ending


class Trackio:
    """A run of the project that is called like the folder of run directories; `TRACKIO_DIR` says where."""

    def open(self, about: About, kept: Json) -> bool:
        """Nothing is taken back: what was sent is known by its name."""
        self._about = about
        return False

    def send(self, entries: Sequence[Entry]) -> Json:
        """A row for each record; `event` and `text` are texts in it."""
        rows: list[dict[str, object]] = []
        for entry in entries:
            rows.append({**entry.figures})
            if entry.event:
                rows[-1] |= {"event": entry.event, "text": entry.text}
        self._log(rows, entries, [f"{self._about.id}-{entry.number}" for entry in entries])
        return entries[-1].number

    def finish(self, ending: Ending) -> Json:
        """Final figures, as a row at the end."""
        last = Entry(number=0, step=0, seconds=0.0, figures=ending.figures)
        self._log([{**ending.figures, "state": ending.state}], [last], [f"{self._about.id}-{ending.state}"])
        return None

    def _log(self, rows: list[dict[str, object]], entries: Sequence[Entry], names: list[str]) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        about = self._about
        SQLiteStorage.bulk_log(
            about.project,
            about.name,
            rows,
            steps=[entry.step for entry in entries],
            timestamps=[datetime.fromtimestamp(entry.seconds, UTC).isoformat() for entry in entries],
            config={**about.settings, **{f"plan.{key}": text for key, text in about.plan.items()}},
            log_ids=names,
            run_id=about.id,
        )

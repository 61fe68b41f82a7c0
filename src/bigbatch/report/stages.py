"""The stages of a run, as its report shows them: one row each, and how the earlier ones learnt."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from bigbatch.documents import readable
from bigbatch.errors import UsageError
from bigbatch.report import facts, figures
from bigbatch.report.read import RunData, read_run
from bigbatch.report.text import clean, show_number, title_of
from bigbatch.units import show_seconds


def stages_section(run: Path) -> dict[str, object]:
    """`stages`: a row each; `earlier`: name and loss of all but the last that has begun. Empty for a plain run.

    Args:
        run: a run directory.
    """
    found = readable(run / "stages.json")
    entries = [] if found is None else found["stages"]
    rows, curves = [], []
    for number, entry in enumerate(entries, 1):
        data = _data(run / "stages" / entry["folder"]) if entry["folder"] is not None else None
        rows.append({"number": number, "name": clean(entry["name"]), "folder": entry["folder"], **_row(data)})
        if data is not None and data.updates.num_rows:
            curves.append((clean(entry["name"]), figures.responsive(figures.loss_chart(data))))
    earlier: list[tuple[str, Markup]] = curves[:-1]
    return {"stages": rows, "earlier": earlier}


def _data(folder: Path) -> RunData | None:
    try:
        return read_run(folder)
    except UsageError:  # removed since
        return None


def _row(data: RunData | None) -> dict[str, str]:
    if data is None:
        return {"state": "not begun", "updates": "–", "seconds": "–", "figure": "–"}
    best, seconds = facts.best(data), facts.train_seconds(data)
    figure = "–" if best is None else f"{title_of(best.metric)} {show_number(best.value)}"
    return {
        "state": clean(data.state),
        "updates": show_number(data.updates.num_rows),
        "seconds": "–" if seconds is None else show_seconds(seconds),
        "figure": clean(figure),
    }

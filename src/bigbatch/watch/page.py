"""The page and its parts, as text; what is chosen, and what each run is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from markupsafe import Markup

from bigbatch.protocols import Json
from bigbatch.report.page import render
from bigbatch.report.text import clean, shorten
from bigbatch.watch.figures import Seen, as_json, view
from bigbatch.watch.observed import Observed
from bigbatch.watch.runs import Runs

MOST_CHOSEN = 8
"""As many as there are colours."""


class Page:
    """What is shown of the runs below some folders; one look at a time, whoever asks."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Find the folders.

        Raises:
            UsageError: one of them is none.
        """
        self._roots = list(roots)
        self._runs = Runs(roots)
        self._lock = Lock()

    def whole(self, keys: Sequence[str], nonce: str) -> str:
        """The page with its script; `nonce` is what its policy lets run."""
        parts = self.parts(keys)
        named = [root.resolve() for root in self._roots]
        heading = named[0].name if len(named) == 1 and named[0].name != "runs" else "Runs"
        shown = {
            "choice": Markup(parts["choice"]),
            "body": Markup(parts["view"]),
        }  # rendered, so escaped already
        return render("watch.html.j2", {"nonce": nonce, "heading": clean(heading), **shown})

    def parts(self, keys: Sequence[str]) -> dict[str, str]:
        """`choice`, the list of runs, and `view`, what is shown of those that are chosen: markup.

        Args:
            keys: of runs; none: the one that was touched last.
        """
        with self._lock:
            found = self._runs.find()
            seen = self._seen(keys or list(found)[:1])
            chosen = [one.run.named for one in seen]
            entries = [
                {"key": key, "name": shorten(clean(self._runs.name_of(folder)), 60), "state": self._runs.state_of(key),
                 "chosen": folder in chosen} for key, folder in found.items()
            ]  # fmt: skip
            waiting = "" if found else clean(", ".join(str(root) for root in self._roots))
            shown = view(seen) | {"names": [clean(one.name) for one in seen], "waiting": waiting}
            return {
                "choice": render("watch_choice.html.j2", {"choice": entries}),
                "view": render("watch_runs.html.j2", shown),
            }

    def figures(self, keys: Sequence[str]) -> dict[str, Json]:
        """The same as figures: {"runs": […]}, for programs."""
        with self._lock:
            found = self._runs.find()
            return {
                "runs": [as_json(one) for one in self._seen(keys or list(found)[:1])],
                "known": {key: clean(self._runs.name_of(folder)) for key, folder in found.items()},
            }

    def _seen(self, keys: Sequence[str]) -> list[Seen]:
        runs: list[Observed] = self._runs.observed(keys[:MOST_CHOSEN])
        return [
            Seen(name=self._runs.name_of(run.named), tone=1 + place % 8, run=run)
            for place, run in enumerate(runs)
        ]

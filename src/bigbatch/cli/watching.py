"""`bigbatch watch` and `bigbatch track`: runs seen from beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bigbatch.cli.words import say


def add_watching(app: typer.Typer) -> None:
    """The commands, beside the others."""

    @app.command(epilog="Example: bigbatch watch runs")
    def watch(
        runs: Annotated[
            list[Path] | None,
            typer.Argument(
                metavar="RUNS",
                help="Run directories, or folders of them; runs, if none is named.",
                show_default=False,
            ),
        ] = None,
        port: Annotated[
            int, typer.Option("--port", metavar="N", min=0, max=65535, help="0: any that is free.")
        ] = 0,
    ) -> None:
        """Show runs while they go on: a page for this machine's browsers, read from the runs' files."""
        from bigbatch.watch.server import watch

        watch(runs or [Path("runs")], port=port, say=say)

    @app.command(epilog="Example: bigbatch track runs/tweets --to mlflow")
    def track(
        run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
        to: Annotated[
            str, typer.Option("--to", metavar="KIND", help="tensorboard, wandb, mlflow or trackio.")
        ] = "",
        follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended.")] = False,
    ) -> None:
        """Send a run to a tracker, while it goes on or afterwards; what was sent already is not sent again."""
        from bigbatch.track.sending import track as send

        count = send(run, to=to, follow=follow, say=_error)
        say(f"{count:,} records sent to {to}")


def _error(text: str) -> None:
    say(text, sys.stderr)

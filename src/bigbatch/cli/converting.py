"""The command `convert`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bigbatch.cli.options import Quoting
from bigbatch.cli.words import say


def add_convert(app: typer.Typer) -> None:
    """The command, beside the others."""

    @app.command(epilog="Example: bigbatch convert tweets.csv tweets.tfrecord.gz")
    def convert(
        source: Annotated[str, typer.Argument(metavar="FILE", help="Any file of rows that is read here.")],
        out: Annotated[
            Path,
            typer.Argument(metavar="OUT", help=".tfrecord(.gz), .parquet, .jsonl or .csv; must not exist."),
        ],
        quoting: Quoting = None,
        encoding: Annotated[
            str, typer.Option("--encoding", metavar="NAME", help="utf-8, utf-8-sig or latin-1.")
        ] = "utf-8",
    ) -> None:
        """Write rows as another kind of file. TFRecord needs no TensorFlow."""
        from bigbatch import commands

        def note(text: str) -> None:
            say(text, sys.stderr)

        rows = commands.convert(source, out, encoding=encoding, quoting=quoting or "minimal", say=note)
        say(f"{rows:,} rows: {out}")

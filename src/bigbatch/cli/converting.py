"""The commands `convert` and `split`: files of rows."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bigbatch.cli.options import Quoting
from bigbatch.cli.words import say
from bigbatch.errors import UsageError


class By(StrEnum):
    """What stands together."""

    rows = "rows"
    column = "column"
    similarity = "similarity"
    time = "time"
    last = "last"


def note(text: str) -> None:
    """To standard error: standard output is the result."""
    say(text, sys.stderr)


def add_split(app: typer.Typer) -> None:
    """The command, beside the others."""

    @app.command(
        epilog="Example: bigbatch split proteins.fasta parts --by similarity --validation 10% --test 10%"
    )
    def split(
        source: Annotated[str, typer.Argument(metavar="FILE", help="Any file of rows that is read here.")],
        folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="For train, validation and test.")],
        by: Annotated[
            By,
            typer.Option(
                "--by",
                help="rows: each alone. column: equal values together. similarity: texts that are alike together. "
                "time: the latest to test. last: of each value of --column the latest row to test.",
            ),
        ] = By.rows,
        column: Annotated[
            str | None,
            typer.Option("--column", metavar="NAME", help="Whose values belong together; the text."),
        ] = None,
        time: Annotated[
            str | None,
            typer.Option("--time", metavar="NAME", help="Orders rows; the file's order without it."),
        ] = None,
        validation: Annotated[str, typer.Option("--validation", metavar="SHARE", help="10% or 0.1.")] = "10%",
        test: Annotated[str, typer.Option("--test", metavar="SHARE", help="10% or 0.1.")] = "10%",
        letters: Annotated[
            int, typer.Option("--letters", metavar="K", min=1, help="Of similarity: length of a stretch.")
        ] = 5,
        threshold: Annotated[
            float,
            typer.Option("--threshold", metavar="S", min=0.01, max=1.0, help="Common share of stretches."),
        ] = 0.5,
        suffix: Annotated[
            str, typer.Option("--to", metavar="SUFFIX", help=".jsonl, .csv, .parquet or .tfrecord.")
        ] = ".jsonl",
        seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the dealing.")] = 0,
    ) -> None:
        """Deal rows to training, validation and test, with what belongs together on one side."""
        shares = {"validation": share_of(validation), "test": share_of(test)}
        from bigbatch.files import parted

        how = parted.Parting(
            by=by.value, column=column, time=time, letters=letters, threshold=threshold, seed=seed, **shares
        )
        for name, rows in parted.split(source, folder, how, suffix=suffix, say=note).items():
            say(f"{name}: {rows:,} rows")


def share_of(typed: str) -> float:
    """`10%` or `0.1`.

    Raises:
        UsageError: neither.
    """
    try:
        found = float(typed.removesuffix("%")) / (100 if typed.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1:
        raise UsageError(f"found {typed!r}; expected a share, such as 10% or 0.1")
    return found


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
        from bigbatch.files import converted

        rows = converted.convert(source, out, encoding=encoding, quoting=quoting or "minimal", say=note)
        say(f"{rows:,} rows: {out}")

"""The command `mine`."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import typer

from bigbatch.cli.options import Columns, Device, Quoting, RunOrModel
from bigbatch.cli.words import columns_of, say
from bigbatch.errors import UsageError

EXAMPLE = "Example: bigbatch mine runs/help pairs.jsonl -o mined.jsonl --range 10..100 --margin 5%"


def add_mine(app: typer.Typer) -> None:
    """The command, beside the others."""

    @app.command(epilog=EXAMPLE)
    def mine(
        model: RunOrModel,
        source: Annotated[str, typer.Argument(metavar="FILE", help="Pairs of texts.", show_default=False)],
        out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="JSONL; - writes stdout.")],
        negatives: Annotated[
            int, typer.Option("--negatives", metavar="N", min=1, help="Of each pair, at most.")
        ] = 1,
        ranks: Annotated[
            str, typer.Option("--range", metavar="A..B", help="Ranks that are looked at.")
        ] = "1..100",
        margin: Annotated[
            str, typer.Option("--margin", metavar="M", help="How far below its document's score; 5% or 0.05.")
        ] = "5%",
        max_score: Annotated[
            float | None, typer.Option("--max-score", metavar="S", help="Largest score of a negative.")
        ] = None,
        guide: Annotated[
            str | None,
            typer.Option(
                "--guide", metavar="RUN|MODEL", help="Leaves out what it scores above the document."
            ),
        ] = None,
        corpus: Annotated[
            list[str] | None, typer.Option("--corpus", metavar="FILE", help="Further documents; repeatable.")
        ] = None,
        scores: Annotated[bool, typer.Option("--scores", help="Write scores, too.")] = False,
        column: Columns = None,
        quoting: Quoting = None,
        device: Device = None,
    ) -> None:
        """Find hard negatives for pairs: texts that a model takes for answers, and that are none."""
        columns = columns_of(column)
        first, last = ranks_of(ranks)
        share, relative = margin_of(margin)
        from bigbatch import answers

        ways = {
            "quoting": quoting,
            "device": device,
            "max_score": max_score,
            "guide": guide,
            "scores": scores,
        }
        pairs, found = answers.mine(
            model, source, out, negatives=negatives, ranks=(first, last), margin=share, relative=relative,
            corpus=corpus or (), columns=columns, say=say_error, **ways,
        )  # fmt: skip
        say_error(f"{found:,} negatives for {pairs:,} pairs")


def say_error(text: str) -> None:
    """To standard error: standard output may be the result."""
    say(text, sys.stderr)


def ranks_of(typed: str) -> tuple[int, int]:
    """`10..100` as two numbers.

    Raises:
        UsageError: anything else.
    """
    first, dots, last = typed.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()):
        raise UsageError(f"--range: found {typed!r}; expected two ranks, such as 10..100")
    return int(first), int(last)


def margin_of(typed: str) -> tuple[float, bool]:
    """`0.05`, or `5%` of a score: the number, and whether it is a share.

    Raises:
        UsageError: anything else.
    """
    try:
        number = float(typed.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--margin: found {typed!r}; expected a number or a share, such as 0.05 or 5%")
    return (number / 100, True) if typed.endswith("%") else (number, False)

"""The command `tokenize`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bigbatch.cli.options import Changes, Recipe, Set
from bigbatch.cli.words import say
from bigbatch.launch.passed import unstowed


def add_tokenize(app: typer.Typer) -> None:
    """Make it one of the commands."""

    @app.command(epilog="Example: bigbatch tokenize recipe.yaml -o /shared/cache --processes 8")
    def tokenize(
        recipe: Recipe,
        changes: Changes = None,
        set_: Set = None,
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", metavar="FOLDER", help="The cache; train: run.cache=FOLDER."),
        ] = None,
        processes: Annotated[
            int, typer.Option("--processes", metavar="N", min=1, help="For data.shuffle: shards.")
        ] = 1,
        publish: Annotated[
            Path | None,
            typer.Option(
                "--publish",
                metavar="FOLDER",
                help="Write tokens that other machines stream: data.train=FOLDER/bigbatch-tokens.json.",
            ),
        ] = None,
        part: Annotated[
            str | None, typer.Option("--part", hidden=True, help="Which of how many parts: 1/4.")
        ] = None,
    ) -> None:
        """Fill the token cache ahead of time. Ctrl-C is safe: the same command goes on behind the last shard."""
        from bigbatch import commands

        given = unstowed([*(changes or ()), *(set_ or ())], os.environ)
        number, _, of = (part or "").partition("/")
        which = (int(number), int(of)) if number.isdigit() and of.isdigit() and int(of) else None
        how = {"out": out, "processes": processes, "part": which, "publish": publish}
        say(commands.tokenize(recipe, given, **how, environ=os.environ))

"""The commands that have a file of their own."""

from __future__ import annotations

import typer

from bigbatch.cli.converting import add_convert, add_split
from bigbatch.cli.exporting import add_export
from bigbatch.cli.mining import add_mine
from bigbatch.cli.serving import add_serve
from bigbatch.cli.tokens import add_tokenize
from bigbatch.cli.watching import add_watching
from bigbatch.cli.writing import add_generate


def add_others(app: typer.Typer) -> None:
    """Put them beside those of `app.py`, in the order in which `--help` shows them."""
    add_mine(app)
    add_generate(app)
    add_serve(app)
    add_export(app)
    add_tokenize(app)
    add_convert(app)
    add_watching(app)
    add_split(app)

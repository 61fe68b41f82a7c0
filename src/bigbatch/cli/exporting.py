"""The command `export`."""

from __future__ import annotations

from typing import Annotated

import typer

from bigbatch.cli.options import Code, RunOrModel
from bigbatch.cli.words import say


def add_export(app: typer.Typer) -> None:
    """The command, beside the others."""

    @app.command(epilog="Example: bigbatch export runs/tweets --to torch --out tweets-model")
    def export(
        model: RunOrModel,
        to: Annotated[
            str,
            typer.Option("--to", metavar="FORMAT", help="torch (a Hugging Face folder), onnx, onnx-int8."),
        ],
        out: Annotated[
            str, typer.Option("--out", "-o", metavar="FOLDER", help="Where it goes; must not exist.")
        ],
        code: Code = False,
    ) -> None:
        """Write a trained model as a plain Hugging Face folder, adapters merged into their base, or as ONNX."""
        from bigbatch import answers

        say(f"model: {answers.export(model, out, to=to, code=code, say=say)}")

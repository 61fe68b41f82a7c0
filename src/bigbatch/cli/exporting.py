"""The command `export`."""

from __future__ import annotations

from typing import Annotated

import typer

from bigbatch.cli.options import Code, RunOrModel
from bigbatch.cli.words import say


def add_export(app: typer.Typer) -> None:
    """The command, beside the others."""

    @app.command(epilog="Example: bigbatch export runs/tweets --to onnx --rows test.csv --out tweets-onnx")
    def export(
        model: RunOrModel,
        to: Annotated[
            str,
            typer.Option(
                "--to", metavar="FORMAT", help="transformers, torch, onnx, onnx-int8, savedmodel, gguf."
            ),
        ],
        out: Annotated[
            str, typer.Option("--out", "-o", metavar="FOLDER", help="Where it goes; must not exist.")
        ],
        rows: Annotated[
            str | None,
            typer.Option(
                "--rows", metavar="FILE", help="Rows on which both are compared, besides made ones."
            ),
        ] = None,
        python: Annotated[
            str | None,
            typer.Option("--python", metavar="PATH", help="Of savedmodel: an interpreter with TensorFlow."),
        ] = None,
        code: Code = False,
    ) -> None:
        """Write a trained model as other programs open it, with the same outputs; adapters are merged."""
        from bigbatch import answers

        say(f"model: {answers.export(model, out, to=to, rows=rows, python=python, code=code, say=say)}")

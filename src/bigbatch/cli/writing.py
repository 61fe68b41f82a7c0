"""The command that lets a model write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bigbatch.cli.options import (
    Beams,
    Chat,
    Code,
    Columns,
    Device,
    Keep,
    MaxTokens,
    Prompts,
    RunOrModel,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from bigbatch.cli.words import columns_of, say, show
from bigbatch.errors import UsageError


def add_generate(app: typer.Typer) -> None:
    """Add `bigbatch generate`."""

    @app.command(
        epilog="Example: bigbatch generate runs/help 'To open a file' --max-tokens 50 --temperature 0.7"
    )
    def generate(
        model: RunOrModel,
        prompt: Annotated[
            str | None,
            typer.Argument(
                metavar="PROMPT", help="What to write from; without it, standard input.", show_default=False
            ),
        ] = None,
        prompts: Prompts = None,
        out: Annotated[
            Path | None, typer.Option("--out", "-o", metavar="FILE", help="JSONL or CSV, a record a row.")
        ] = None,
        max_tokens: MaxTokens = None,
        temperature: Temperature = 0.0,
        top_p: TopP = 1.0,
        top_k: TopK = None,
        beams: Beams = None,
        stop: Stop = None,
        seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of what is drawn.")] = 0,
        chat: Chat = False,
        column: Columns = None,
        keep: Keep = None,
        device: Device = None,
        code: Code = False,
    ) -> None:
        """Let a trained model write: one text as it comes, or one for each row of a file."""
        if prompt is not None and prompts is not None:
            raise UsageError("PROMPT and --prompts: give one of them")
        given: str | bytes | Path
        if prompts is not None:
            given = sys.stdin.buffer.read() if prompts == "-" else Path(prompts)
        else:
            given = sys.stdin.read().rstrip("\n") if prompt is None else prompt
        columns = columns_of(column)
        from bigbatch import answers

        answers.generate_command(
            model,
            given,
            None if str(out) == "-" else out,
            columns=columns,
            keep=keep or (),
            chat=chat,
            device=device,
            code=code,
            say=lambda text: say(text, sys.stderr),
            show=show,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            beams=beams,
            stop=stop or (),
            seed=seed,
        )

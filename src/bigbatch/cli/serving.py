"""The command `serve`."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from bigbatch.cli.mining import say_error
from bigbatch.cli.options import Code, Device
from bigbatch.errors import UsageError

EXAMPLE = "Example: bigbatch serve runs/tweets --port 8000, then open http://127.0.0.1:8000"
_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0}
_SIZES = {"": 1, "kb": 1 << 10, "mb": 1 << 20}


def add_serve(app: typer.Typer) -> None:
    """The command, beside the others."""

    @app.command(epilog=EXAMPLE)
    def serve(
        models: Annotated[
            list[str],
            typer.Argument(
                metavar="RUN_OR_MODEL",
                help="Runs or model folders; NAME=FOLDER gives a name.",
                show_default=False,
            ),
        ],
        host: Annotated[
            str, typer.Option("--host", metavar="HOST", help="Others than loopback need a token.")
        ] = "127.0.0.1",
        port: Annotated[
            int, typer.Option("--port", metavar="N", min=0, max=65535, help="0: a free one.")
        ] = 8000,
        token_file: Annotated[
            Path | None,
            typer.Option("--token-file", metavar="FILE", help="A token a line: Authorization: Bearer TOKEN."),
        ] = None,
        wait: Annotated[
            str, typer.Option("--wait", metavar="TIME", help="For others that run together.")
        ] = "5ms",
        queue: Annotated[
            int, typer.Option("--queue", metavar="ROWS", min=1, help="That wait; more: 429.")
        ] = 1024,
        deadline: Annotated[
            str, typer.Option("--deadline", metavar="TIME", help="Of an answer; then 504.")
        ] = "30s",
        reload: Annotated[
            str,
            typer.Option(
                "--reload", metavar="TIME", help="How often to look for newer models; 0: on SIGHUP."
            ),
        ] = "0",
        drain: Annotated[
            str, typer.Option("--drain", metavar="TIME", help="For requests in flight at the end.")
        ] = "30s",
        max_body: Annotated[
            str, typer.Option("--max-body", metavar="SIZE", help="Of a request; more: 413.")
        ] = "4MB",
        max_rows: Annotated[
            int, typer.Option("--max-rows", metavar="N", min=1, help="Of a request; more: 422.")
        ] = 256,
        max_text: Annotated[
            int, typer.Option("--max-text", metavar="N", min=1, help="Characters of a text.")
        ] = 100_000,
        max_tokens: Annotated[
            int, typer.Option("--max-tokens", metavar="N", min=1, help="That are written of a text.")
        ] = 1024,
        device: Device = None,
        code: Code = False,
    ) -> None:
        """Answer requests over HTTP: predictions, embeddings, ranks, texts; SIGTERM ends it when all have answers."""
        seconds = {
            name: seconds_of(typed, f"--{name}")
            for name, typed in (("wait", wait), ("deadline", deadline), ("reload", reload), ("drain", drain))
        }
        try:
            from bigbatch.serve import server
            from bigbatch.serve.heap import keep_few_holes
            from bigbatch.serve.limits import Limits
            from bigbatch.serve.models import Opening
        except ModuleNotFoundError as error:
            if error.name not in ("fastapi", "uvicorn", "prometheus_client", "starlette", "h11"):
                raise
            raise UsageError(f"serve needs {error.name}: pip install 'bigbatch[serve]'") from None
        limits = Limits(
            wait_seconds=seconds["wait"], queue_rows=queue, deadline_seconds=seconds["deadline"],
            body_bytes=(body := bytes_of(max_body)), bodies_bytes=max(64 << 20, 4 * body), rows=max_rows,
            characters=max_text, new_tokens=max_tokens, drain_seconds=seconds["drain"],
        )  # fmt: skip
        how = server.Serving(
            models=models, host=host, port=port, token_file=token_file, reload_seconds=seconds["reload"],
            opening=Opening(device=device, code=code), limits=limits,
        )  # fmt: skip
        keep_few_holes(os.environ)
        server.serve(how, say_error)


def seconds_of(typed: str, option: str) -> float:
    """`5ms`, `30s`, `2min` as seconds.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"([0-9.]+) ?([a-z]*)", typed.strip().lower())
    try:
        number = float(found[1]) * _UNITS[found[2]] if found else math.nan
    except (ValueError, KeyError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise UsageError(f"{option}: found {typed!r}; expected a time, such as 5ms, 30s or 2min")
    return number


def bytes_of(typed: str) -> int:
    """`4MB` as bytes.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"([0-9]+) ?([kKmM]?[bB]?)", typed.strip())
    if not found or found[2].lower() not in (*_SIZES, "k", "m", "b") or not int(found[1]):
        raise UsageError(f"--max-body: found {typed!r}; expected a size, such as 512KB or 4MB")
    unit = found[2].lower().rstrip("b")
    return int(found[1]) * _SIZES[f"{unit}b" if unit else ""]

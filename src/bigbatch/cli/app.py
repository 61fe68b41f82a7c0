"""The commands. Each reads its words, calls one function of api.py, answers.py or commands.py and says what came back.

Those are imported inside the commands, so that `--help` is fast; they load torch when something is to be computed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bigbatch import __version__
from bigbatch.cli.beside import add_others
from bigbatch.cli.options import (
    Changes,
    Code,
    Columns,
    Device,
    InitColumns,
    Keep,
    Pretrain,
    Quoting,
    Recipe,
    RunOrModel,
    Set,
)
from bigbatch.cli.outcome import as_worker, exit_code_of_run, guarded
from bigbatch.cli.studying import add_studies
from bigbatch.cli.words import columns_of, figures, say, terminal_width
from bigbatch.errors import UsageError
from bigbatch.launch.passed import unstowed
from bigbatch.launch.python import look_only_where_installed
from bigbatch.launch.worker import Worker

app = typer.Typer(
    name="bigbatch",
    help="Train any Transformer in large batches, and get the same model whichever way the work was split.",
    epilog="Start with: bigbatch init DATA",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(words: list[str] | None = None) -> None:
    """Run the command line; ends the process with the exit codes of `bigbatch.errors`.

    Args:
        words: the arguments; None takes those of the process.
    """
    look_only_where_installed(os.environ)

    def command() -> object:
        return app(args=words, prog_name="bigbatch", standalone_mode=False)

    worker = Worker.of()
    sys.exit(guarded(command) if worker is None else as_worker(command, worker))


def _version(wanted: bool) -> None:
    if wanted:
        say(f"bigbatch {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: bigbatch init tweets.csv --model bert-base-uncased")
def init(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA", help="Data file(s) or folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the recipe goes.")] = Path(
        "recipe.yaml"
    ),
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Hub name or folder of the model.")
    ] = None,
    column: InitColumns = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    pretrain: Pretrain = None,
) -> None:
    """Look at the data and write a commented recipe that runs as it is."""
    columns = columns_of(column)
    from bigbatch import commands

    ways = {"columns": columns, "force": force, "pretrain": pretrain or ()}
    say(commands.init(data, out=out, model=model, say=_error, **ways).lines)


@app.command(epilog="Example: bigbatch plan recipe.yaml batch.samples=4096 --graph graph.html")
def plan(
    recipe: Recipe,
    changes: Changes = None,
    set_: Set = None,
    graph: Annotated[
        bool,
        typer.Option(
            "--graph",
            help="Also what a micro-batch computes and what nobody reads of it; draws it into FILE.html, "
            "if one is named.",
        ),
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Show what the number format does to each block of the model.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="What one of many ranks would hold and send, from shapes alone: needs no cluster.",
        ),
    ] = False,
    ranks: Annotated[
        int | None, typer.Option("--ranks", metavar="N", min=2, help="With --dry-run: how many ranks.")
    ] = None,
) -> None:
    """Say what would run, how long it would take, how much memory, and why."""
    words, page = _both(changes, set_), None
    if ranks is not None and not dry_run:
        raise UsageError("--ranks needs --dry-run: a plan without it is for this process alone")
    if dry_run and (graph or audit):
        raise UsageError("--dry-run computes nothing that --graph or --audit could show")
    if graph:
        # The file is a word among the changes: an option with an optional value would swallow one of them.
        pages = [word for word in words if word.lower().endswith(".html") and "=" not in word]
        words = [word for word in words if word not in pages]
        page = pages[-1] if pages else None
    from bigbatch import commands

    say(
        commands.plan(
            recipe,
            words,
            environ=os.environ,
            graph=page or graph,
            audit=audit,
            dry_run=dry_run,
            ranks=ranks,
            width=terminal_width(),
        )
    )


@app.command(epilog="Example: bigbatch prepare recipe.yaml")
def prepare(recipe: Recipe, changes: Changes = None, set_: Set = None) -> None:
    """Fetch the model and tokenise the data, so that training finds both where there is no internet."""
    from bigbatch import commands

    say(commands.prepare(recipe, _both(changes, set_), environ=os.environ))


@app.command(epilog="Example: bigbatch train recipe.yaml batch.samples=4096 optimizer.name=lamb")
def train(
    recipe: Recipe,
    changes: Changes = None,
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist on resuming; without it, what fits is done.")
    ] = False,
    continue_from: Annotated[
        str | None,
        typer.Option("--continue", metavar="RUN", help="Carry on from this run, with changed keys."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow", metavar="KEYS", help="With --continue: the keys that may differ: optimizer.lr,epochs"
        ),
    ] = None,
    ranks: Annotated[
        str | None,
        typer.Option(
            "--ranks", metavar="N", help="Processes, over all hosts; auto: one for each accelerator."
        ),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option("--hosts", metavar="A,B", help="Machines to start on, over SSH; they share a disk."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="The interpreter on the hosts, if not at this one's path."
        ),
    ] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Inside an allocation of Slurm: on all of its nodes.")
    ] = False,
    submit: Annotated[
        bool, typer.Option("--submit", help="With --slurm: write a batch job (launch.slurm) and submit it.")
    ] = False,
) -> int:
    """Train. Ctrl-C is safe: the same command goes on where it stopped."""
    allowed = [key for keys in allow or () for key in keys.split(",") if key]
    if allowed and continue_from is None:
        raise UsageError("--allow needs --continue RUN")
    if submit and not slurm:
        raise UsageError("--submit needs --slurm")
    from bigbatch import api, commands

    given = unstowed(_both(changes, set_), os.environ)
    words = ["train", str(recipe), *(["--resume"] if resume else [])]
    words += [] if continue_from is None else ["--continue", continue_from, "--allow", ",".join(allowed)]
    code = commands.launch_command(
        recipe,
        given,
        words,
        ranks=ranks,
        hosts=[name.strip() for name in (hosts or "").split(",") if name.strip()],
        python=python,
        environ=os.environ,
        say=_error,
        slurm=slurm,
        submit=submit,
    )
    if code is not None:
        return code
    run = api.train_command(
        recipe,
        given,
        resume=True if resume else None,
        continue_from=continue_from,
        allow=allowed,
        environ=os.environ,
    )
    return exit_code_of_run(run)


@app.command(hidden=True)
def worker(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Written by distributed_train.")],
) -> int:
    """One process of distributed_train."""
    from bigbatch import api

    return exit_code_of_run(api.worker_command(folder))


@app.command(epilog="Example: bigbatch evaluate runs/tweets test.csv")
def evaluate(
    model: RunOrModel,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Labelled data.", show_default=False)],
    column: Columns = None,
    quoting: Quoting = None,
    device: Device = None,
    code: Code = False,
) -> None:
    """Measure a trained model on labelled data."""
    columns = columns_of(column)
    from bigbatch import answers

    ways = {"quoting": quoting, "device": device, "code": code}
    say(figures(answers.evaluate(model, files, columns=columns, say=_error, **ways)))


@app.command(epilog="Example: bigbatch predict runs/tweets new.csv --out predictions.jsonl")
def predict(
    model: RunOrModel,
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="Data to label; - reads stdin.", show_default=False)
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="CSV, JSONL; - is stdout.")] = "-",
    column: Columns = None,
    keep: Keep = None,
    quoting: Quoting = None,
    device: Device = None,
    code: Code = False,
    dimension: Annotated[
        int | None,
        typer.Option("--dimension", metavar="N", min=1, help="Numbers kept of an embedding (task: match)."),
    ] = None,
) -> None:
    """Label new data, row by row, in order."""
    columns = columns_of(column)
    from bigbatch import answers

    ways = {"quoting": quoting, "device": device, "code": code, "dimension": dimension}
    answers.predict_file(model, source, out, columns=columns, keep=keep or (), say=_error, **ways)


add_others(app)


@app.command(epilog="Example: bigbatch report runs/tweets")
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
) -> None:
    """Write a run's report, one HTML file that works offline, and print its path."""
    from bigbatch import commands

    say(str(commands.report(run)))


@app.command(epilog="Example: bigbatch compare runs/tweets runs/tweets-2")
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run directories.", show_default=False)],
) -> None:
    """Compare runs: a table, and one page with their curves."""
    if len(runs) < 2:
        raise UsageError("compare needs at least two runs")
    from bigbatch import commands

    text, page = commands.compare(runs)
    say(text if page is None else [text, str(page)])


add_studies(app)


def _error(text: str) -> None:
    say(text, sys.stderr)


def _both(changes: list[str] | None, more: list[str] | None) -> list[str]:
    return [*(changes or ()), *(more or ())]

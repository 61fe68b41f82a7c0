"""The commands `bench`, `sweep` and `scale`: many runs, and bigbatch beside other trainers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bigbatch.cli.options import Budget, Changes, DropWeights, Name, Parallel, Recipe, Set
from bigbatch.cli.outcome import exit_code_of_run
from bigbatch.cli.words import say
from bigbatch.errors import UsageError


def add_studies(app: typer.Typer) -> None:
    """The commands, beside the others."""
    _add_bench(app)
    _add_sweep(app)
    _add_scale(app)


def _add_bench(app: typer.Typer) -> None:
    @app.command(epilog="Example: bigbatch bench recipe.yaml --against hf")
    def bench(
        recipe: Recipe,
        changes: Changes = None,
        set_: Set = None,
        against: Annotated[
            str,
            typer.Option("--against", metavar="WHOM", help="hf: Hugging Face's Trainer, and a PyTorch loop."),
        ] = "hf",
        updates: Annotated[int, typer.Option("--updates", metavar="N", help="Counted updates a round.")] = 5,
        rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Turns of each contestant.")] = 3,
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="FOLDER", help="Where results.json and results.md go."),
        ] = None,
        resume: Annotated[
            bool, typer.Option("--resume", help="Keep the rounds that an earlier start left there.")
        ] = False,
    ) -> None:
        """Compare speed and memory with other trainers, on the same samples."""
        from bigbatch import commands

        commands.bench(
            recipe,
            [*(changes or ()), *(set_ or ())],
            against=against,
            updates=updates,
            rounds=rounds,
            out=out,
            resume=resume,
            environ=os.environ,
            say=say,
        )


def _add_sweep(app: typer.Typer) -> None:
    @app.command(
        epilog="Example: bigbatch sweep recipe.yaml --over batch.samples=16,64,256 --over seed=0,1,2"
    )
    def sweep(
        recipe: Recipe,
        changes: Changes = None,
        set_: Set = None,
        over: Annotated[
            list[str] | None,
            typer.Option(
                "--over", metavar="KEY=A,B,…", help="An axis: a key and its values; may come often."
            ),
        ] = None,
        parallel: Parallel = 1,
        budget: Budget = None,
        name: Name = None,
        metric: Annotated[
            str | None,
            typer.Option(
                "--metric", metavar="NAME", help="What the report shows: f1_macro, test.f1_macro, …"
            ),
        ] = None,
        drop_weights: DropWeights = False,
    ) -> int:
        """Train every combination of some values; the same command goes on where it stopped."""
        from bigbatch import commands

        outcome = commands.sweep(
            recipe,
            [*(changes or ()), *(set_ or ())],
            over=over or (),
            parallel=parallel,
            budget=budget,
            name=name,
            metric=metric,
            drop_weights=drop_weights,
            environ=os.environ,
            say=say,
        )
        return exit_code_of_run(outcome)


def _add_scale(app: typer.Typer) -> None:
    @app.command(epilog="Example: bigbatch scale recipe.yaml --batches 16,64,256,1024 --target f1_macro=.75")
    def scale(
        recipe: Recipe,
        changes: Changes = None,
        set_: Set = None,
        batches: Annotated[
            str, typer.Option("--batches", metavar="A,B,…", help="Batches, in the recipe's unit.")
        ] = "",
        target: Annotated[
            str,
            typer.Option("--target", metavar="METRIC=NUMBER", help="Validation figure to train to: loss=.5"),
        ] = "",
        seeds: Annotated[str, typer.Option("--seeds", metavar="A,B,…", help="Repetitions.")] = "0,1,2",
        start: Annotated[
            str | None,
            typer.Option(
                "--from", metavar="RUN", help="Start from the weights of this run, checkpoint or model."
            ),
        ] = None,
        every: Annotated[
            str, typer.Option("--every", metavar="INTERVAL", help="How often the target is looked at.")
        ] = "0.05 epochs",
        parallel: Parallel = 1,
        budget: Budget = None,
        name: Name = None,
        drop_weights: DropWeights = False,
    ) -> int:
        """Find out how large a batch is worth using: train to a target with several, fit the trade-off."""
        if not (batches and target):
            raise UsageError(
                "scale needs --batches and --target, such as --batches 16,64,256 --target f1_macro=.75"
            )
        from bigbatch import commands

        outcome = commands.scale(
            recipe,
            [*(changes or ()), *(set_ or ())],
            batches=batches,
            target=target,
            seeds=seeds,
            start=start,
            every=every,
            parallel=parallel,
            budget=budget,
            name=name,
            drop_weights=drop_weights,
            environ=os.environ,
            say=say,
        )
        return exit_code_of_run(outcome)

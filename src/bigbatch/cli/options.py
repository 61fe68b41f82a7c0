"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Change keys of the recipe: batch.samples=4096", show_default=False
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="The same as KEY=VALUE.")]
RunOrModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_MODEL", help="A run directory, or a Hugging Face folder.", show_default=False
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Which column has which role, if not as in training: text=review",
    ),
]
InitColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Which column has which role, where a guess would be wrong: text=review, label=stars, query=…",
    ),
]
Pretrain = Annotated[
    list[str] | None,
    typer.Option("--pretrain", metavar="FILE", help="Text without labels, learnt first; may come often."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="NAMES",
        help="Columns of FILE to copy into the output: --keep text,day; may come often.",
    ),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Many of them: a text a line (.txt), or rows with prompt, messages or source; - reads stdin.",
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End a text in front of this; may come often."),
]
Temperature = Annotated[
    float, typer.Option("--temperature", metavar="T", help="Draw tokens; 0: always the likeliest one.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", help="Of a text, at most; 256 if not given.")
]
TopP = Annotated[
    float,
    typer.Option("--top-p", metavar="P", help="Draw among the likeliest, of this probability together."),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", metavar="K", help="Draw among so many of the likeliest.")
]
Beams = Annotated[
    int | None, typer.Option("--beams", metavar="N", help="Pursue so many texts, keep the best.")
]
Chat = Annotated[
    bool, typer.Option("--chat", help="A prompt is what a user says: it goes through the chat template.")
]
Quoting = Annotated[str | None, typer.Option("--quoting", help="Of CSV and TSV: minimal or none.")]
Parallel = Annotated[int, typer.Option("--parallel", metavar="N", help="Runs at a time.")]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Start no run after this long: '60 min'.")
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Of the folder in sweeps/, if not the recipe's.")
]

DropWeights = Annotated[
    bool,
    typer.Option("--drop-weights", help="Remove checkpoints and model of a run that has its result."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="WHERE",
        help="cpu, cuda, cuda:1, mps, auto, or several with commas; if not given, as the run was planned.",
    ),
]
Code = Annotated[
    bool,
    typer.Option(
        "--code", help="Let code that the run names run, though it was not made here. Read it first."
    ),
]

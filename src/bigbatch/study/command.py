"""`bigbatch bench`: from words to a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

from bigbatch.recipe.load import load_recipe
from bigbatch.study.results import Results


def bench_command(
    recipe: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    against: str = "hf",
    updates: int = 5,
    rounds: int = 3,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    environ: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Results:
    """Train with bigbatch and with others on the same samples, a process each, taking turns; compare their speed.

    Args:
        recipe: what is computed; schedule, evaluation and checkpoints are left out.
        overrides: `key=value` words.
        against: `hf`: Hugging Face's Trainer twice, by its defaults and at its best, and a plain PyTorch loop.
        updates: counted updates of a round, after one that warms up (three on a GPU, where kernels are compiled).
        rounds: turns of each.
        out: folder of results.json and results.md; None: `runs/bench-RECIPE`.
        resume: keep the rounds that an earlier start of the same benchmark left there.
        environ: where `BIGBATCH_*` keys are read from.
        say: told what is going on, and the tables.

    Raises:
        UsageError: numbers that make no sense, or accelerate is not installed.
        RecipeError: the recipe asks for something that cannot be compared.
    """
    loaded = load_recipe(recipe, overrides, environ=environ)
    from bigbatch.probe.hardware import choose_device
    from bigbatch.study.bench import bench

    words = ["bigbatch", "bench", str(recipe), *overrides, "--against", against]
    words += ["--updates", str(updates), "--rounds", str(rounds)]
    return bench(
        loaded,
        out=Path(out) if out is not None else Path("runs") / f"bench-{Path(recipe).stem}",
        against=against,
        updates=updates,
        rounds=rounds,
        warmup_updates=3 if choose_device(loaded.plan.device).startswith("cuda") else 1,
        command=" ".join(words),
        resume=resume,
        say=say,
    )

"""bigbatch and other trainers on the same samples, side by side: one process a contestant, taking turns.

A process each, because the high-water mark of memory is a process's; taking turns (A B C D A B C D …), because a
machine is slower at one moment than at another, and ratios are taken within a round.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from bigbatch.errors import UsageError
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.schema import Recipe
from bigbatch.records import utc_now
from bigbatch.study.jobs import Job, Outcome, write_json
from bigbatch.study.results import Results, Round, read_results, save_results
from bigbatch.study.runner import (
    CEILING,
    CONTESTANTS,
    PROFILE,
    Runner,
    Say,
    installed_versions,
    machine_facts,
)
from bigbatch.study.tables import TITLES, console, markdown
from bigbatch.written import as_named, new_folder, replace_text

TRIED_MICRO_SAMPLES = (8, 16, 32, 64)
"""Samples a device takes at once that the Trainer at its best chooses from."""
NEWCOMERS_MICRO_SAMPLES = 32
AGAINST: Mapping[str, tuple[str, ...]] = {"hf": ("hf-default", "hf-best", "torch-loop", "bigbatch")}
"""Word after `--against` -> contestants."""


def bench(
    recipe: Recipe,
    *,
    out: Path,
    against: str = "hf",
    updates: int = 5,
    rounds: int = 3,
    warmup_updates: int = 1,
    command: str = "",
    resume: bool = False,
    contestants: Sequence[str] = (),
    timeout_seconds: float = 3600,
    max_seconds: float | None = None,
    saved: Callable[[], object] = lambda: None,
    profiled: bool = False,
    say: Say = lambda text: None,
) -> Results:
    """Run every contestant `rounds` times and keep results.json and results.md in `out`.

    Args:
        recipe: what is computed; schedule, evaluation and checkpoints are left out.
        out: folder of the results; only what is called as they are is replaced in it, and not when `resume`.
        against: who competes: `hf` for Hugging Face's Trainer and a plain PyTorch loop.
        updates: counted updates of a round.
        rounds: turns of every contestant.
        warmup_updates: updates before the counted ones, at least 1.
        command: what the user typed, for the record.
        resume: keep the rounds that are there, if they are of the same job and versions, and go on.
        contestants: only these, in this order; empty: all.
        timeout_seconds: a contestant that takes longer has failed.
        max_seconds: no further round is begun that would end after this; the first one always is.
        saved: called whenever the results have been written.
        profiled: run bigbatch once more under torch's profiler, and keep where the time goes in profile.json.
        say: told what is going on.

    Raises:
        UsageError: unknown contestants, numbers that make no sense, missing packages.
        RecipeError: the recipe asks for something that cannot be compared.
    """
    names = _names(against, contestants, updates, rounds, warmup_updates)
    from bigbatch.probe.hardware import choose_device
    from bigbatch.study.prepare import prepare

    out.mkdir(parents=True, exist_ok=True)
    work = new_folder(out.resolve(), ".bench-")  # whatever else lies in `out` is the user's
    try:
        say("preparing data, model and order of samples")
        on_gpu = choose_device(recipe.plan.device).startswith("cuda")
        prepared = prepare(
            recipe, work, counted_updates=updates, warmup_updates=warmup_updates, compiled=on_gpu
        )
        job = prepared.job
        results = Results(
            date=utc_now(),
            command=command,
            machine=machine_facts(recipe),
            versions=installed_versions(),
            setting={**prepared.setting, "contestants": list(names)},
            train_flops=prepared.work.train_flops,
        )
        results = _earlier(out, results) if resume else results
        started = time.monotonic()
        runner = Runner(work, timeout_seconds, say)
        chosen = _micro_samples(results, names, job, runner)
        longest = 0.0
        while len(results.rounds) < rounds:
            turn = time.monotonic()
            if max_seconds is not None and results.rounds and turn - started + longest > max_seconds:
                say(f"no time for round {len(results.rounds) + 1} of {rounds}")
                break
            say(f"round {len(results.rounds) + 1} of {rounds}")
            done = _round(names, job, chosen, prepared.setting["counted_tokens"], runner)
            results = replace(results, rounds=(*results.rounds, done))
            save_results(out / "results.json", results)
            replace_text(as_named(out / "results.md"), markdown(results), durable=False)
            saved()
            longest = max(longest, time.monotonic() - turn)
        if profiled:
            say("once more under torch's profiler")
            seen = runner.run("profile", PROFILE, job)
            write_json(out / "profile.json", {"failed": seen.failed, "rows": seen.details.get("profile", [])})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for line in console(results):
        say(line)
    return results


def largest_share(batch_samples: int, wanted: int) -> int:
    """Samples at once: the largest divisor of the batch that is not above `wanted`, so that all pieces are full."""
    return max(size for size in range(1, min(wanted, batch_samples) + 1) if batch_samples % size == 0)


def _names(
    against: str, contestants: Sequence[str], updates: int, rounds: int, warmup_updates: int
) -> tuple[str, ...]:
    if against not in AGAINST:
        raise UsageError(f"--against {against}: expected {' or '.join(AGAINST)}")
    for flag, number in (("--updates", updates), ("--rounds", rounds), ("warmup_updates", warmup_updates)):
        if number < 1:
            raise UsageError(f"{flag} {number}: expected at least 1")
    names = tuple(contestants) or AGAINST[against]
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        raise UsageError(f"no contestant is called {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    missing = sorted(
        {
            package
            for name in names
            for package in CONTESTANTS[name].needs
            if not importlib.util.find_spec(package)
        }
    )
    if missing:
        raise UsageError(
            f"Hugging Face's Trainer needs {', '.join(missing)}, which is not installed here: "
            "pip install 'bigbatch[bench]'"
        )
    return names


def _micro_samples(
    results: Results, names: Sequence[str], job: Job, runner: Runner
) -> Mapping[str, tuple[int, dict[str, object]]]:
    """Contestant -> samples at once, and how that was found out. An earlier round's choice stays."""
    fixed = largest_share(job.batch_samples, NEWCOMERS_MICRO_SAMPLES)
    chosen: dict[str, tuple[int, dict[str, object]]] = {}
    for name in names:
        chosen[name] = (fixed, {})
        if not CONTESTANTS[name].tries:
            continue
        before = [each.outcomes[name].details for each in results.rounds if name in each.outcomes]
        known = next((details for details in before if "micro_samples" in details), None)
        if known is not None:
            chosen[name] = (known["micro_samples"], {"trial_seconds": known.get("trial_seconds")})
            continue
        sizes = sorted({largest_share(job.batch_samples, size) for size in TRIED_MICRO_SAMPLES})
        runner.say(f"{TITLES.get(name, name)}: trying {', '.join(map(str, sizes))} samples at once")
        found = runner.run(name, CONTESTANTS[name], replace(job, trial=tuple(sizes)))
        if found.failed is None:
            tried = found.details["trial_seconds"]
            chosen[name] = (found.details["micro_samples"], {"trial_seconds": tried})
            runner.say(
                f"{TITLES.get(name, name)}: {found.details['micro_samples']} samples at once are fastest"
            )
    return chosen


def _round(
    names: Sequence[str],
    job: Job,
    chosen: Mapping[str, tuple[int, dict[str, object]]],
    tokens: int,
    runner: Runner,
) -> Round:
    ceiling = runner.run("ceiling", CEILING, job)
    outcomes = {}
    for name in names:
        size, details = chosen[name]
        outcome = runner.run(name, CONTESTANTS[name], replace(job, micro_samples=size))
        outcomes[name] = checked(replace(outcome, details={**outcome.details, **details}), tokens)
        runner.tell(name, outcomes[name])
    return Round(
        ceiling_flops=ceiling.details.get("flops_per_second"),
        ceiling_details=ceiling.details,
        outcomes=outcomes,
    )


def _earlier(out: Path, results: Results) -> Results:
    """The rounds of an earlier start of the same benchmark, if there are any."""
    path = out / "results.json"
    if not path.exists():
        return results
    try:
        found = read_results(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be gone on with ({error}); move it away, or choose another --out"
        ) from None
    same = all(
        getattr(found, name) == getattr(results, name)
        for name in ("machine", "versions", "setting", "train_flops")
    )
    return replace(results, rounds=found.rounds, date=found.date) if same else results


def checked(outcome: Outcome, tokens: int) -> Outcome:
    """An outcome over other tokens than the job's is no outcome: its figures could not be compared."""
    if outcome.failed is not None or outcome.tokens == tokens:
        return outcome
    return Outcome(failed=f"counted {outcome.tokens:,} tokens where the samples have {tokens:,}")


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

"""bigbatch, through the rooms that `bigbatch train` and `bigbatch predict` call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bigbatch.recipe.load import load_recipe
from bigbatch.study.contestants.common import Clock, predicted, read_rows, run_contestant, with_details
from bigbatch.study.jobs import Job, Outcome
from bigbatch.track.console import ConsoleObserver


def compete(_variant: str, job: Job) -> Outcome:
    """Train, then predict with the model that training wrote."""
    recipe = load_recipe(Path(job.recipe), {"run.root": job.folder})
    from bigbatch.run.inputs import Live
    from bigbatch.run.start import Wishes, open_run

    clock, console, updates = Clock(job), ConsoleObserver(), []
    wishes = Wishes(observers=[console], say=console.say, progress=console.progress)
    try:
        with open_run(recipe, Live(), wishes) as run:
            for record in run:
                if record.kind == "update":
                    clock.update_ended()
                    updates.append(record)
            lengths = _lengths(run)
            details = _details(run, updates[job.warmup_updates :])
    finally:
        console.close()
    timing = predicted(job, read_rows(job), _predictor(run.path)) if job.predict_samples else {}
    outcome = clock.outcome(lengths, loss=updates[0].loss, grad_norm=updates[0].grad_norm, **timing)
    return with_details(outcome, **details)


def _lengths(run: Any) -> list[int]:
    return [int(length) for length in run._parts.train.lengths_B]


def _details(run: Any, counted: list[Any]) -> dict[str, Any]:
    plan = run.plan.choices
    chosen = {
        name: plan[name].value for name in ("micro_tokens", "packing", "precision", "compile") if name in plan
    }
    return {
        **chosen,
        "padding_share": sum(record.padding_share for record in counted) / len(counted),
        "wait_seconds": sum(record.wait_seconds for record in counted),
        "predicted_train_seconds": (run.result or {}).get("predicted", {}).get("train_seconds"),
    }


def _predictor(run: Path) -> Any:
    """What `bigbatch predict` does with rows, the model opened once."""
    from bigbatch.infer.load import open_model
    from bigbatch.infer.predict import predict_rows

    opened = open_model(run)
    return lambda rows: list(predict_rows(opened.forward, opened.task, opened.tokenizer, rows))


def main() -> None:
    """As the other contestants, but started by way of the command line's own imports."""
    run_contestant(compete)

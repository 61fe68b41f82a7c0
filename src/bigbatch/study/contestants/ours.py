"""bigbatch, through the rooms that `bigbatch train` and `bigbatch predict` call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.recipe.load import load_recipe
from bigbatch.report.console import ConsoleObserver
from bigbatch.study.contestants.common import Clock, predicted, read_rows, run_contestant, with_details
from bigbatch.study.jobs import Job, Outcome

if TYPE_CHECKING:
    from bigbatch.records import Update
    from bigbatch.run.run import Run


PROFILE = "profile"
"""Variant under torch's profiler: slower, so its figures are not compared."""
PROFILED_ROWS = 25


def compete(variant: str, job: Job) -> Outcome:
    """Train, then predict with the model that training wrote; `profile`: with torch's profiler on."""
    recipe = load_recipe(Path(job.recipe), {"run.root": job.folder, "baseline": "off"})
    from bigbatch.build.inputs import Live
    from bigbatch.records import Update
    from bigbatch.run.start import Wishes, open_run

    clock, console = Clock(job), ConsoleObserver()
    updates: list[Update] = []
    wishes = Wishes(observers=[console], say=console.say, progress=console.progress)
    watched = profiled(job) if variant == PROFILE else nullcontext([])
    try:
        with open_run(recipe, Live(), wishes) as run, watched as table:
            for record in run:
                if isinstance(record, Update):
                    clock.update_ended()
                    updates.append(record)
            lengths = _lengths(run)
            details = _details(run, updates[job.warmup_updates :])
    finally:
        console.close()
    timing = predicted(job, read_rows(job), _predictor(run.path)) if job.predict_samples else None
    outcome = clock.outcome(lengths, loss=updates[0].loss, grad_norm=updates[0].grad_norm, timing=timing)
    return with_details(outcome, **details, **({"profile": table} if table else {}))


@contextmanager
def profiled(job: Job) -> Iterator[list[dict[str, object]]]:
    """Fill a list with where the time goes inside: one row an operation, the costliest first."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = job.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    rows: list[dict[str, object]] = []
    with profile(activities=activities, acc_events=True) as seen:
        yield rows
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda event: getattr(event, name), reverse=True)
    total = sum(getattr(event, name) for event in events) or 1
    rows += [
        {
            "operation": event.key,
            "calls": event.count,
            "seconds": getattr(event, name) / 1e6,
            "share": getattr(event, name) / total,
        }
        for event in events[:PROFILED_ROWS]
    ]


def _lengths(run: Run) -> list[int]:
    assert run._parts is not None, "it has just ended"
    return [int(length) for length in run._parts.train.lengths_B]


def _details(run: Run, counted: list[Update]) -> dict[str, object]:
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


def _predictor(run: Path) -> Callable[[Sequence[Mapping[str, str]]], list[dict[str, Any]]]:
    """What `bigbatch predict` does with rows, the model opened once."""
    from bigbatch.infer.load import open_model
    from bigbatch.infer.predict import predict_rows

    opened = open_model(run)
    return lambda rows: list(predict_rows(opened.forward, opened.task, opened.tokenizer, rows))


def main() -> None:
    """As the other contestants, but started by way of the command line's own imports."""
    run_contestant(compete)

"""What an evaluation of a split adds to the journal, and to what the run knows of itself."""

from __future__ import annotations

from bigbatch.infer.evaluate import EvalResult
from bigbatch.records import Eval
from bigbatch.store.progress import Progress


def records_of(result: EvalResult, split: str, progress: Progress) -> list[Eval]:
    """The records of a split that was evaluated, and of the sources of a mixture that its rows are of.

    A source is a part of the split, which was evaluated once: its record has no time of its own.

    Args:
        result: of the split.
        split: its name.
        progress: of the run; it is told.
    """
    whole = Eval(
        step=progress.update,
        split=split,
        loss=result.loss,
        metrics=result.metrics,
        seconds=result.seconds,
        samples_per_second=result.samples_per_second,
    )
    progress.after_evaluation(whole, result.samples)
    found = [whole]
    for name, part in result.by_source.items():
        record = Eval(
            step=progress.update,
            split=f"{split}.{name}",
            loss=part.loss,
            metrics=part.metrics,
            seconds=0.0,
            samples_per_second=result.samples_per_second,
        )
        progress.after_evaluation(record, 0)
        found.append(record)
    return found

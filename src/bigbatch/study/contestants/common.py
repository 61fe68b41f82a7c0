"""What contestants share: reading the rows, the clock, handing in. Imports nothing heavy before it has to."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from bigbatch.study.jobs import Job, Outcome, read_job, write_json

if TYPE_CHECKING:
    pass


def run_contestant(compete: Callable[[str, Job], Outcome]) -> None:
    """`VARIANT JOB OUT` from the command line: read the job, compete, write the outcome."""
    variant, job, out = sys.argv[1:4]
    write_json(Path(out), compete(variant, read_job(Path(job))))


class Timing(TypedDict, total=False):
    """How long predictions took."""

    predict_samples: int
    predict_seconds: float


class Clock:
    """Ends of updates, in seconds since 1970, so that the parent can subtract when it started the process."""

    def __init__(self, job: Job) -> None:
        self.ends: list[float] = []
        self.peak_memory_bytes = 0
        self._job = job

    def update_ended(self) -> None:
        """Wait for the device, note the time; after the last counted update the high-water mark, too."""
        from bigbatch.probe.hardware import peak_memory_bytes, synchronize

        synchronize(self._job.device)
        self.ends.append(time.time())
        if len(self.ends) == self._job.updates:
            self.peak_memory_bytes = peak_memory_bytes(self._job.device)

    def outcome(
        self,
        lengths: Sequence[int],
        loss: float | None = None,
        grad_norm: float | None = None,
        timing: Timing | None = None,
    ) -> Outcome:
        """What the clock saw, and the contestant's own figures.

        Args:
            lengths: real tokens of every row, as the contestant tokenised them.
            loss: of the first update.
            grad_norm: of the first update.
            timing: of predictions.
        """
        counted = self._job.counted_order
        return Outcome(
            update_ends=tuple(self.ends),
            warmup_updates=self._job.warmup_updates,
            samples=len(counted),
            tokens=sum(lengths[row] for row in counted),
            peak_memory_bytes=self.peak_memory_bytes,
            loss=loss,
            grad_norm=grad_norm,
            **(timing or {}),
        )


def read_rows(job: Job) -> list[dict[str, str]]:
    """The rows of the CSV, column -> text."""
    csv.field_size_limit(2**31 - 1)
    with Path(job.data).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def texts_of(rows: Sequence[dict[str, str]]) -> list[list[str]]:
    """Arguments of a Hugging Face tokenizer: the texts, and the second texts where there are any."""
    names = [name for name in ("text", "pair") if rows and name in rows[0]]
    return [[row[name] for row in rows] for name in names]


def tokenised(job: Job, tokenizer: Any, rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Training examples as the Trainer takes them: lists of ids with their label; clm: ids alone.

    Args:
        job: its kind, label names and longest sample in tokens.
        tokenizer: Hugging Face's.
        rows: by column.
    """
    if job.kind == "clm":
        return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in documents(tokenizer, rows)]
    found = tokenizer(*texts_of(rows), truncation=True, max_length=job.max_length)
    number = {name: index for index, name in enumerate(job.labels)}
    return [
        {**{name: values[index] for name, values in found.items()}, "labels": number[row["label"]]}
        for index, row in enumerate(rows)
    ]


def documents(tokenizer: Any, rows: Sequence[dict[str, str]]) -> list[list[int]]:
    """Token ids of each text with the end-of-text token behind it, if the tokenizer has one."""
    end = tokenizer.eos_token_id
    return [
        ids if end is None or ids[-1:] == [end] else [*ids, end]
        for ids in tokenizer(*texts_of(rows))["input_ids"]
    ]


def predicted(
    job: Job, rows: Sequence[dict[str, str]], predict: Callable[[list[dict[str, str]]], Sequence[object]]
) -> Timing:
    """Time one call of `predict` on the job's texts, after a short one that wakes everything up.

    Args:
        job: says how many texts.
        rows: all rows.
        predict: texts -> one prediction each.
    """
    if not job.predict_samples:
        return {}
    asked = [rows[row] for row in job.counted_order[: job.predict_samples]]
    predict(asked[:32])
    started = time.perf_counter()
    found = predict(asked)
    seconds = time.perf_counter() - started
    assert len(found) == len(asked)
    return {"predict_samples": len(asked), "predict_seconds": seconds}


def by_length(rows: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """The rows, longest first."""
    return sorted(rows, key=lambda row: lengths[row], reverse=True)


def with_details(outcome: Outcome, **details: object) -> Outcome:
    """The outcome with further details."""
    return replace(outcome, details={**outcome.details, **details})

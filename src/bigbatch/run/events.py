"""Events of an update, in words: what happened, why, and what was done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigbatch.records import Event, Update
from bigbatch.samples import GlobalBatch
from bigbatch.store.progress import Progress

if TYPE_CHECKING:
    from bigbatch.build.parts import Parts


def skipped(record: Update, batch: GlobalBatch) -> Event:
    """An update that changed nothing, with the samples to look at."""
    return Event(
        step=record.step,
        event="nonfinite",
        why=f"loss {record.loss}, gradient norm {record.grad_norm}",
        did="skipped the update: weights and optimiser are as before, the clock went on",
        details={"sample_ids": [int(sample) for sample in batch.sample_ids_B]},
    )


def empty(record: Update, batch: GlobalBatch) -> Event:
    """An update that had nothing to learn from."""
    return Event(
        step=record.step,
        event="nothing_to_learn",
        why=f"nothing in its {batch.samples:,} samples counts: no token to predict, no label, or all weights 0",
        did="counted the update: weights and optimiser are as before, the clock went on",
        details={"sample_ids": [int(sample) for sample in batch.sample_ids_B]},
    )


def batch_grown(parts: Parts, progress: Progress, before: int, why: str) -> Event:
    """The ramp goes to its next size; the optimiser keeps what it remembers."""
    ramp = parts.clocks.ramp
    assert ramp is not None
    old, new = ramp.sizes[before], ramp.sizes[progress.batch_stage]
    here = parts.in_stage(progress.batch_stage)
    did = f"{old:,} -> {new:,} samples an update; peak lr {parts.in_stage(before).lr:g} -> {here.lr:g}"
    if here.betas != parts.in_stage(before).betas:
        did += f", betas {here.betas[0]:.6g}, {here.betas[1]:.6g}"
    return Event(
        step=progress.update,
        event="batch_ramp",
        why=why,
        did=did,
        details={
            "samples_before": old,
            "samples": new,
            "lr": here.lr,
            "betas": list(here.betas),
            "eps": here.eps,
        },
    )

"""Events of a run, in words: what happened, why, and what was done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigbatch.records import Event, Update
from bigbatch.samples import GlobalBatch
from bigbatch.store.identity import NewName, Resume, Start
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
    """The ramp goes to its next size; the optimiser keeps what it remembers.

    Args:
        parts: of the run, whose batch has a ramp.
        progress: is in the new stage.
        before: the stage until now.
        why: what made it grow.
    """
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


def carried_on_event(
    parts: Parts, progress: Progress, decision: Start | NewName | Resume, *, asked: bool = True
) -> Event:
    """What `--continue` changed, and what that does to the schedule.

    Args:
        parts: of the run, with its new length.
        progress: where it goes on.
        decision: what differs from the run before.
        asked: whether this command said `--continue`, or one before it.
    """
    changed = decision.differences if isinstance(decision, Resume) else ()
    length, after = parts.clocks.length, progress.update
    did = f"the run is to have {length.updates} updates and has had {after}: it is only finished anew"
    if after < length.updates:
        stage, samples = progress.batch_stage, None
        if parts.clocks.ramp is not None:
            stage = parts.clocks.ramp.stage(progress.position, stage)
            samples = parts.clocks.ramp.samples(progress.position, stage)
        batch = parts.batches.at(progress.position, after + 1, samples)
        lr = parts.learning_rate(batch.first_position, batch.samples, stage)
        did = (
            f"the schedule {parts.recipe.schedule.name} is laid anew over all {length.updates} updates, not over "
            f"those that are left: update {after + 1} has lr {lr:.6g}"
        )
        if progress.warm_again == progress.position:
            did += (
                f"; it had begun to cool down, so it rises again within {parts.recipe.schedule.warmup} "
                "(schedule.warmup) and cools down once more at the end"
            )
    return Event(
        step=after,
        event="carried_on",
        why="; ".join(changed)
        or ("nothing that changes the result" if asked else "what --continue had changed"),
        did=did,
        details={"differences": list(changed)},
    )

"""What ways to train share: the record of an update, the optimiser's step, the loss scale's news."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from bigbatch.errors import DoesNotFit
from bigbatch.optim.build import set_scaled
from bigbatch.parallel.agree import is_memory_error, summed, together
from bigbatch.probe.hardware import peak_memory_bytes
from bigbatch.protocols import Moments, Rates, World
from bigbatch.records import Event, Update
from bigbatch.samples import GlobalBatch, LossSums
from bigbatch.step.loss_scale import LossScale


def recorded(
    batch: GlobalBatch,
    rates: Rates,
    started: float,
    sums: LossSums,
    denominators: Mapping[str, float],
    *,
    grad_norm: float,
    finite: bool,
    peak_bytes: int,
) -> Update:
    """The record of an update that was made, or skipped because something was not finite.

    Args:
        batch: of the update.
        rates: that it went by.
        started: when, by `time.perf_counter`.
        sums: loss of the whole batch.
        denominators: of each term; one of 0 has no loss.
        grad_norm: L2 norm of the gradient, before it was clipped.
        finite: whether loss and gradient were.
        peak_bytes: memory of the largest rank.
    """
    return Update(
        step=batch.update,
        samples=batch.first_position + batch.samples,
        tokens=rates.tokens_before + batch.tokens,
        batch_samples=batch.samples,
        batch_tokens=batch.tokens,
        loss=sums.loss,
        terms={term: sums.terms[term] if count else None for term, count in denominators.items()},
        grad_norm=grad_norm,
        lr=rates.lr,
        seconds=time.perf_counter() - started,
        wait_seconds=sums.wait_seconds,
        padding_share=1 - sums.real_tokens / max(sums.computed_tokens, 1),
        peak_memory_bytes=peak_bytes,
        skipped=not finite,
    )


def nothing_learnt(
    world: World, device: str, batch: GlobalBatch, terms: Iterable[str], rates: Rates
) -> Update:
    """The record of a batch in which nothing counts. Every rank knows the whole batch, so all find it empty alike:
    none runs the model, and weights and optimiser stay as they are.

    Args:
        world: the ranks, all of which call this.
        device: whose memory is told.
        batch: in which nothing counts.
        terms: names of the loss's terms.
        rates: of this update.
    """
    started = time.perf_counter()
    nothing = LossSums(terms={}, real_tokens=0, computed_tokens=0)
    together(world, lambda: None)  # a rank that found something else has met trouble
    _, peak_bytes = summed(world, [], nothing, peak_memory_bytes(device))
    return Update(
        step=batch.update,
        samples=batch.first_position + batch.samples,
        tokens=rates.tokens_before + batch.tokens,
        batch_samples=batch.samples,
        batch_tokens=batch.tokens,
        loss=None,
        terms=dict.fromkeys(terms),
        grad_norm=None,
        lr=rates.lr,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_bytes,
        empty=True,
    )


def set_moments(optimizer: torch.optim.Optimizer, moments: Moments | None) -> None:
    """Betas and eps of this size of a ramp; the averages so far are kept."""
    if moments is not None:
        set_scaled(optimizer, *moments)


@contextmanager
def moving() -> Iterator[None]:
    """Around an optimiser's step. Some parameters may have moved when memory runs out, so this is not replayed."""
    try:
        yield
    except Exception as error:
        if not is_memory_error(error):
            raise
        raise DoesNotFit(
            f"the optimiser ran out of memory ({str(error).partition(chr(10))[0]}); no smaller micro-batch helps: "
            "take an optimiser with less state (optimizer.name=sgd), a smaller model, or train fewer parameters "
            "(model.adapter, model.trainable); the newest checkpoint is intact"
        ) from error


# ------------------------------------------------------------ the loss scale


def halved(scale: LossScale, update: int) -> Event:
    """Halve it: the same batch is done again. Nothing needs to be durable: a resume meets the same overflow."""
    before = scale.value
    scale.halve()
    return Event(
        step=update - 1,
        event="loss_scale_overflow",
        why=f"the gradient of update {update} was not finite at a loss scale of {before:g}",
        did=f"halves the loss scale to {scale.value:g} and does update {update} again",
        details={"loss_scale_before": before, "loss_scale": scale.value},
    )


def counted(scale: LossScale, record: Update) -> list[Event]:
    """Count an update; an event where the scale has grown."""
    if record.empty or not scale.after(record.skipped):
        return []
    return [
        Event(
            step=record.step,
            event="loss_scale_grown",
            why=f"{scale.grow_after} updates in a row did not overflow",
            did=f"doubled the loss scale to {scale.value:g}",
            details={"loss_scale": scale.value},
        )
    ]


def scale_facts(scale: LossScale) -> dict[str, object]:
    """What a checkpoint keeps of it."""
    return {"loss_scale": scale.to_state()} if scale.varies else {}


def restore_scale(scale: LossScale, facts: Mapping[str, dict[str, object]]) -> None:
    """Put that back."""
    if scale.varies and "loss_scale" in facts:
        scale.restore(facts["loss_scale"])

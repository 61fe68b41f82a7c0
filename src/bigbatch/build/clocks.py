"""How many updates a run has, the schedule laid over them, and how its batch grows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bigbatch.data.batches import Batches
from bigbatch.data.lengths import length_facts
from bigbatch.errors import Problem, RecipeError
from bigbatch.facts import LengthFacts, SourceFacts
from bigbatch.recipe.references import is_reference, resolve_reference
from bigbatch.recipe.schema import Recipe
from bigbatch.rules.batch_size import Effective, scaled
from bigbatch.rules.clocks import Length, refuse_large_batch, total_updates
from bigbatch.rules.ramp import Ramp, ramp_from, ramp_length, ramp_samples, scaled_in_stage
from bigbatch.rules.schedules import Schedule, schedule_from
from bigbatch.rules.warmup import scaled_warmup
from bigbatch.samples import Table


@dataclass(kw_only=True)
class Clocks:
    """What a run counts by. What `auto` left open, `run.rate_test` and `run.plateau` decide."""

    lengths: LengthFacts
    length: Length
    effective: Effective
    schedule: Schedule
    clock: str
    """What the schedule counts: `samples`, or `tokens` for tasks whose unit is the token."""
    ramp: Ramp | None
    """How the batch grows; None: it does not."""
    open_end: bool = False
    """Whether validation decides when the cool-down begins (`run.plateau`); `length` is the most there will be."""


def clocks_of(recipe: Recipe, train: Table, batches: Batches, clock: str) -> Clocks:
    """How many updates, and the learning rate of each.

    Args:
        recipe: its length, batch, ramp, schedule and optimiser; no `auto` is left in it.
        train: the tokenised training split.
        batches: knows how many tokens lie before a sample, and where a batch that is counted in tokens ends.
        clock: what the schedule counts: `samples` or `tokens`, as the task says.
    """
    lengths = _lengths_of(recipe, train, batches)
    by_tokens = clock == "tokens"
    sample = lengths.tokens / lengths.samples if by_tokens else 1.0
    epoch = lengths.tokens if by_tokens else lengths.samples
    new_schedule = partial(
        schedule_from,
        recipe.schedule,
        epoch_samples=epoch,
        sample=sample,
        custom=custom(recipe, recipe.schedule.name),
        warmup=scaled_warmup(
            recipe.schedule, recipe.optimizer.base_batch, recipe.batch.samples or recipe.batch.tokens or 1
        ).length,
    )
    ramp = None
    if recipe.batch.ramp is None:
        length = total_updates(
            recipe.length,
            recipe.batch.samples,
            lengths.samples,
            batch_tokens=recipe.batch.tokens,
            tokens=lengths.tokens,
            allow_repeats=recipe.batch.allow_repeats,
            next_position=batches.next_position if recipe.batch.tokens else None,
        )
        total = batches.tokens_before(length.samples) if by_tokens else length.samples
        schedule = new_schedule(total_samples=total, batch_samples=total / length.updates)
        effective = scaled(recipe.optimizer, recipe.batch.samples or recipe.batch.tokens or 1)
    else:
        asked, batch = recipe.batch.ramp, recipe.batch.samples
        assert batch is not None
        refuse_large_batch(batch, lengths.samples, None, None, recipe.batch.allow_repeats)
        samples = ramp_samples(asked, recipe.length, lengths.samples)
        total = batches.tokens_before(samples) if by_tokens else samples
        schedule = new_schedule(total_samples=total, batch_samples=asked.start * sample)
        ramp = ramp_from(asked, batch, samples, lengths.samples, schedule, samples / total)
        length = ramp_length(ramp, lengths.samples)
        effective = scaled_in_stage(recipe.optimizer, ramp, 0)
    return Clocks(
        lengths=lengths, length=length, effective=effective, schedule=schedule, clock=clock, ramp=ramp
    )


def _lengths_of(recipe: Recipe, train: Table, batches: Batches) -> LengthFacts:
    """Of the samples as they are drawn.

    Raises:
        RecipeError: one update takes more of a source than it has.
    """
    files = recipe.data.train
    if not train.sources or not any(file.share for file in files):
        return length_facts(train)
    shares = [file.share or 0.0 for file in files]
    sizes = np.diff([*train.sources, len(train)]).tolist()
    sources = tuple(
        SourceFacts(name=file.path, samples=size, share=share / sum(shares))
        for file, size, share in zip(files, sizes, shares, strict=True)
    )
    facts = replace(length_facts(train, batches.first_epoch), sources=sources)
    mean_tokens = facts.tokens / facts.samples
    batch = recipe.batch.samples or (recipe.batch.tokens or 0) / mean_tokens
    assert isinstance(batch, (int, float)), "auto is settled by now"
    for source in sources if not recipe.batch.allow_repeats else ():
        if source.share * batch >= source.samples + 1:
            what = (
                f"one update takes about {source.share * batch:,.0f} samples of {source.name} "
                f"({source.share:.3g} of its batch), which has {source.samples:,}; lower one of them, or set "
                "batch.allow_repeats: true to have samples more than once in a batch"
            )
            raise RecipeError([Problem(where="recipe", key="data.train", what=what)])
    return facts


def custom(recipe: Recipe, name: str) -> Any:
    """The user's own object behind an import reference; None for a built-in name."""
    return resolve_reference(name, recipe.base) if is_reference(name) else None

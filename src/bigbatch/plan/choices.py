"""The choices of a plan one by one, each with its reason and who said so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bigbatch.facts import CalibrationFacts, Choice, HardwareFacts, LengthFacts, ProbeFacts
from bigbatch.plan.batches import Cut
from bigbatch.plan.memory import MemoryBreakdown
from bigbatch.plan.recompute import Recomputation
from bigbatch.plan.timing import Work, predict_seconds
from bigbatch.rules.batch_size import scaled
from bigbatch.rules.clocks import Length
from bigbatch.rules.ramp import Ramp, scaled_in_stage
from bigbatch.rules.schedules import SCHEDULES, schedule_from
from bigbatch.rules.warmup import scaled_warmup
from bigbatch.units import show_bytes, show_seconds

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

_FEWEST_USUAL, _MOST_USUAL = 1024, 4096
_VALUES_AT_ONCE = 2**19
"""Tokens times hidden width of a micro-batch. On CPUs 1,000 to 2,000 tokens were fastest of 384 values, 2,000 of 256,
2,000 to 4,000 of 128 and of 64 (docs/experiments/speed-log.md): fewer, and what every call costs outweighs its work;
more, and values leave the caches."""


ABOUT_AS_FAST = 1.03
"""Micro-batches within this factor of the fastest differ by less than a measurement repeated on a quiet machine."""
_NEAR = f"the smallest within {ABOUT_AS_FAST - 1:.0%} of the fastest tried"


def _asked(value: object, key: str) -> Choice:
    return Choice(value=value, reason=f"asked for by {key}", source="user")


def machine(recipe: Recipe, hardware: HardwareFacts, formats: Mapping[str, Choice]) -> dict[str, Choice]:
    """Device, threads, precision (from `plan.precision`), ranks.

    Args:
        recipe: its `plan` may name a device and a number of threads.
        hardware: what this machine has.
        formats: the choices of `plan.precision`.
    """
    plan = recipe.plan
    where = f"{hardware.device_name}, {show_bytes(hardware.memory_bytes)} may be used"
    found = f"no accelerator was found; {where}" if hardware.device == "cpu" else where
    cores = f"{hardware.cores} {'core' if hardware.cores == 1 else 'cores'} may be used by this process"
    choices = {
        "device": Choice(value=hardware.device, reason=found, source="derived"),
        "threads": Choice(value=hardware.threads, reason=cores, source="derived"),
        **formats,
        "ranks": _ranks(hardware.ranks),
    }
    for name in ("device", "threads"):
        if getattr(plan, name, None) is not None:
            choices[name] = _asked(choices[name].value, f"plan.{name}")
    return choices


def _ranks(count: int) -> Choice:
    if count == 1:
        return Choice(value=1, reason="one process; --ranks N starts more", source="default")
    return Choice(value=count, reason="as many processes were started; they share each batch", source="user")


def asked_for(recipe: Recipe, length: Length, ramp: Ramp | None = None) -> dict[str, Choice]:
    """What the recipe says, in effective numbers: updates, learning rate, betas, eps, the ramp.

    Args:
        recipe: no `auto` is left in it.
        length: of the run.
        ramp: how its batch grows; None: it does not.
    """
    optimizer, batch = recipe.optimizer, recipe.batch.samples or recipe.batch.tokens
    assert isinstance(batch, (int, float)), "auto is settled before a plan"
    effective = scaled(optimizer, batch) if ramp is None else scaled_in_stage(optimizer, ramp, 0)
    unit = "samples" if recipe.batch.samples else "tokens"
    told = f"{batch:,} {unit} an update; {length}"
    if ramp is not None:
        most = "" if ramp.marks is not None else "at most "
        told = f"{ramp.sizes[0]:,} growing to {batch:,} samples an update; {most}{length}"
    choices = {
        "updates": Choice(value=length.updates, reason=told, source="derived"),
        "learning_rate": Choice(
            value=effective.lr,
            reason=effective.notes[0],
            source="user" if effective.lr == optimizer.lr else "derived",
        ),
    }
    notes = {note.split()[0]: note for note in effective.notes[1:]}
    for name, value in (("betas", list(effective.betas)), ("eps", effective.eps)):
        if name in notes:
            choices[name] = Choice(value=value, reason=notes[name], source="derived")
    if ramp is not None:
        peaks = ", ".join(
            f"{scaled_in_stage(optimizer, ramp, stage).lr:g}" for stage in range(len(ramp.sizes))
        )
        choices["ramp"] = Choice(value=str(ramp), reason=f"by {ramp.by}; peak lr {peaks}", source="user")
    warmup = scaled_warmup(recipe.schedule, optimizer.base_batch, batch)
    if warmup.note is not None:
        choices["warmup"] = Choice(value=str(warmup.length), reason=warmup.note, source="derived")
    return choices


def mixture(recipe: Recipe, lengths: LengthFacts, length: Length) -> dict[str, Choice]:
    """What training draws from each source of a mixture by share, or from shards; nothing where all rows are alike.

    Args:
        recipe: with the shares as they were typed.
        lengths: of the training split.
        length: of the run.
    """
    if recipe.data.shuffle == "shards":
        told = "asked for by data.shuffle: files in a new order each epoch, the rows of 8 at a time mixed"
        return {"order": Choice(value="shards", reason=told, source="user")}
    if not lengths.sources:
        return {}
    total = sum(file.share or 0.0 for file in recipe.data.train)
    ratio = "" if abs(total - 1) < 1e-9 else f"shares sum to {total:g} and are taken in their ratio; "
    drawn = ", ".join(
        f"{source.name} {source.share * length.samples:,.0f} ({source.share * length.samples / source.samples:.3g} "
        f"times its {source.samples:,})"
        for source in lengths.sources
    )
    epoch = f"an epoch is as many samples as all have, {lengths.samples:,}"
    told = f"{ratio}of {length.samples:,} samples about {drawn}; {epoch}"
    shares = [round(source.share, 6) for source in lengths.sources]
    return {"mixture": Choice(value=shares, reason=told, source="user")}


def replicas(recipe: Recipe) -> dict[str, Choice]:
    """How many train apart, and when they meet; nothing where one model is trained."""
    sync = recipe.sync
    if not replicas_here(recipe, 1):
        return {}
    period = (
        "at intervals that are measured" if sync.period == "auto" else f"after every {sync.period} updates"
    )
    share = f"each trains on 1/{sync.replicas} of every batch and clips its own gradient"
    does = "go on from their mean" if sync.outer == "average" else "make an outer step towards their mean"
    told = f"asked for by sync: {share}; they meet {period} and {does}"
    return {"replicas": Choice(value=sync.replicas, reason=told, source="user")}


def replicas_here(recipe: Recipe, ranks: int) -> int:
    """Most replicas that one rank computes in turn; 0: the model itself is trained."""
    sync = recipe.sync
    return -(-sync.replicas // ranks) if sync.replicas > 1 or sync.outer != "average" else 0


def packing(recipe: Recipe, probe: ProbeFacts | None) -> tuple[Choice, tuple[str, ...]]:
    """Unpadded where it is exact, else padded; what was measured wins over what was asked for."""
    asked = recipe.plan.packing
    if asked == "padded":
        return _asked("padded", "plan.packing"), ()
    if probe is not None and not probe.packed_ok:
        warning = f"plan.packing: packed was asked for, but padded is used: {probe.reason}"
        reason = f"sorted by length and padded: {probe.reason}"
        choice = Choice(value="padded", reason=reason, source="measured")
        return choice, (warning,) if asked == "packed" else ()
    if asked == "packed":
        return _asked("packed", "plan.packing"), ()
    if probe is None:
        reason = "sorted by length and padded: the unpadded path was not tried"
        return Choice(value="padded", reason=reason, source="default"), ()
    return Choice(value="packed", reason=probe.reason, source="measured", prediction=probe.error), ()


def usual_micro_tokens(hidden: int) -> int:
    """Tokens of a micro-batch on a CPU where no size is tried: a power of two.

    Args:
        hidden: width of the model, values a token.
    """
    fitting = 2 ** int(math.log2(max(1, _VALUES_AT_ONCE // max(1, hidden))))
    return min(_MOST_USUAL, max(_FEWEST_USUAL, fitting))


def micro_tokens(
    recipe: Recipe, hidden: int, calibration: CalibrationFacts | None, not_tried: str = ""
) -> Choice:
    """Computed tokens of a micro-batch: the user's, else the fastest measured, else the usual size.

    Args:
        recipe: its `plan.micro_tokens` goes first.
        hidden: width of the model, values a token.
        calibration: what was measured; None: nothing.
        not_tried: why only the default size was measured; empty: several were.
    """
    if recipe.plan.micro_tokens:
        return Choice(
            value=recipe.plan.micro_tokens,
            reason="asked for by plan.micro_tokens",
            source="user",
            unit="tokens",
        )
    if calibration is None:
        why = f"fast on most CPUs for {hidden:,} values a token; nothing was measured"
        return Choice(value=usual_micro_tokens(hidden), reason=why, source="default", unit="tokens")
    if not_tried:
        why = f"fast on most CPUs for {hidden:,} values a token; no other size was tried: {not_tried}"
        return Choice(value=calibration.micro_tokens, reason=why, source="default", unit="tokens")
    tried = sorted(calibration.tried.items())
    speeds = ", ".join(f"{1 / seconds:,.0f} tokens/s at {size:,}" for size, seconds in tried)
    why = f"{_NEAR}: {speeds}" if len(tried) > 1 else "the size that was measured"
    return Choice(value=calibration.micro_tokens, reason=why, source="measured", unit="tokens")


def split(cut: Cut, batch_samples: int, lengths: LengthFacts) -> dict[str, Choice]:
    """Accumulation and padding of a typical update.

    Args:
        cut: of a typical update.
        batch_samples: of an update, on average over a run whose batch grows.
        lengths: of the training split, in tokens.
    """
    mean = lengths.tokens / lengths.samples
    told = f"{batch_samples:,} samples of {mean:.0f} tokens on average, cut by length"
    random = lengths.padding_share_random
    padding = (
        f"of computed tokens; random padded batches of 32 would have {random:.0%}: "
        f"{_avoided(cut.padding_share, random):.0%} less to compute"
    )
    return {
        "accumulation": Choice(
            value=cut.micro_batches, reason=told, source="derived", unit="micro-batches an update"
        ),
        "padding_share": Choice(
            value=round(cut.padding_share, 4), reason=padding, source="derived", prediction=cut.padding_share
        ),
    }


def _avoided(padding_share: float, random: float) -> float:
    """Share of the random batches' computed tokens that is not computed: tokens are real / (1 - share)."""
    return max(0.0, 1 - (1 - random) / (1 - padding_share))


def parts(breakdown: MemoryBreakdown) -> str:
    """`process 512.0 MiB, parameters 86.6 MiB, …`, what exists at the peak or might."""
    named = {name: size for name, size in breakdown.parts().items() if name != "calibration"}
    return ", ".join(f"{name.replace('_', ' ')} {show_bytes(size)}" for name, size in named.items())


def memory(breakdown: MemoryBreakdown, calibration: CalibrationFacts | None) -> dict[str, Choice]:
    """Predicted peak, part by part."""
    guess = "" if calibration is not None else "guessed, nothing was measured: "
    peaked = (
        "; measuring before the run reached more" if breakdown.calibration > breakdown.needed_bytes else ""
    )
    return {
        "peak_memory_bytes": Choice(
            value=breakdown.parts(),
            reason=f"{guess}{parts(breakdown)}{peaked}",
            source="measured" if calibration is not None else "derived",
            prediction=breakdown.peak_bytes,
            unit="bytes",
        )
    }


def times(
    recipe: Recipe,
    calibration: CalibrationFacts | None,
    length: Length,
    cut: Cut,
    work: Work | None,
    slowdown: float = 1.0,
) -> dict[str, Choice]:
    """Predicted seconds of training and evaluation; none when nothing was measured.

    Args:
        recipe: says how often it is evaluated.
        calibration: seconds per token of one rank, all passes of an update counted; None: nothing was measured.
        length: of the run.
        cut: of a typical update.
        work: tokens that are evaluated, and how busy the machine was; None: no evaluation is foretold.
        slowdown: time of forward and backward as a multiple of that without recomputation.
    """
    if calibration is None:
        return {}
    calibration = replace(calibration, seconds_per_token=calibration.seconds_per_token * slowdown)
    every = recipe.run.evaluate_every
    seconds = predict_seconds(
        calibration, length, cut.computed_tokens,
        evaluate_every=every, generate_every=recipe.run.generate_every, work=work,
    )  # fmt: skip
    train = f"{length.updates:,} updates of {seconds.update:.3g} s: {cut.computed_tokens:,} tokens each"
    load = work.measuring.load if work is not None else None
    if load is not None and load.busy:
        train += f", on a quiet machine; {load} now, which may make it {load.slowdown:.1f} times as long"
    choices = {
        "train_seconds": Choice(
            value=show_seconds(seconds.train),
            reason=train,
            source="measured",
            prediction=seconds.train,
            unit="s",
        )
    }
    if work is not None and (work.validation_tokens or work.test_tokens):
        read = [f"{seconds.evaluations} x {work.validation_tokens:,} validation tokens"] * (
            work.validation_tokens > 0
        ) + [f"{work.test_tokens:,} test tokens"] * (work.test_tokens > 0)
        if work.measuring.writing_seconds:
            read.append(f"texts as long as their targets ({seconds.writings} x of validation)")
        choices["evaluate_seconds"] = Choice(
            value=show_seconds(seconds.evaluate),
            reason=" and ".join(read),
            source="measured",
            prediction=seconds.evaluate,
            unit="s",
        )
    if work is not None and work.derived_tokens:
        forward = work.derived_tokens * calibration.seconds_per_token_forward
        choices["derive_seconds"] = Choice(
            value=show_seconds(forward),
            reason=f"before update 1: {work.derived_tokens:,} tokens through the model as it starts, once",
            source="measured",
            prediction=forward,
            unit="s",
        )
    return choices


def recompute(
    again: Recomputation, without: MemoryBreakdown, limit_bytes: int, wish: str | int | None, *, known: bool
) -> dict[str, Choice]:
    """What backward computes again, and how much more time it is expected to take.

    Args:
        again: what was chosen.
        without: the memory that the run would need if nothing were recomputed.
        limit_bytes: that may be used.
        wish: `plan.recompute`; None: the planner chooses.
        known: whether it is known how the model can be run; else nothing is said.
    """
    if not known:
        return {}
    if wish is not None:
        choice = Choice(value=again.kind, reason="asked for by plan.recompute", source="user")
    elif again.kind == "none":
        choice = Choice(value="none", reason="all activations fit the memory", source="derived")
    else:
        why = (
            f"without it {show_bytes(without.needed_bytes)} would be needed, {show_bytes(limit_bytes)} may be used: "
            f"{again.blocks} blocks compute {'all' if again.kind == 'blocks' else 'cheap'} activations again, "
            f"about {again.slowdown - 1:.0%} more time"
        )
        choice = Choice(value=again.kind, reason=why, source="derived", prediction=again.slowdown)
    blocks = Choice(value=again.blocks, reason="evenly spaced; never the last", source=choice.source)
    return (
        {"recompute": choice} if again.kind == "none" else {"recompute": choice, "recomputed_blocks": blocks}
    )


def evaluation(calibration: CalibrationFacts | None) -> dict[str, Choice]:
    """Micro-batch of evaluations, which keep nothing for a backward pass."""
    if calibration is None or not calibration.evaluation_micro_tokens:
        return {}
    tried = len(calibration.tried) > 1
    why = (
        f"the smallest within {ABOUT_AS_FAST - 1:.0%} of the fastest tried, forward only"
        if tried
        else "no other size was tried"
    )
    size = calibration.evaluation_micro_tokens
    return {"evaluation_micro_tokens": Choice(value=size, reason=why, source="measured", unit="tokens")}


def doubts(recipe: Recipe, length: Length, lengths: LengthFacts, hardware: HardwareFacts) -> list[str]:
    """Warnings of the rules and of the machine.

    Args:
        recipe: no `auto` is left in it.
        length: of the run.
        lengths: of the training split, in tokens.
        hardware: what this machine has.
    """
    optimizer, batch = recipe.optimizer, recipe.batch.samples or recipe.batch.tokens
    assert isinstance(batch, (int, float)), "auto is settled before a plan"
    found = list(scaled(optimizer, batch).warnings)
    if optimizer.name == "schedule_free" and recipe.schedule.name != "constant":
        found.append(
            f"schedule: {recipe.schedule.name} lowers the learning rate, which schedule_free replaces by an average; "
            "schedule=constant (warm-up is kept) is what it was made for"
        )
    if recipe.schedule.name in SCHEDULES:
        mean_batch = length.samples / length.updates
        warmup = scaled_warmup(recipe.schedule, optimizer.base_batch, batch).length
        laid = schedule_from(recipe.schedule, length.samples, mean_batch, lengths.samples, warmup=warmup)
        found += laid.warnings
    if lengths.truncated_samples:
        share = lengths.truncated_samples / lengths.samples
        found.append(
            f"{lengths.truncated_samples:,} samples ({share:.1%}) are cut at {lengths.longest} tokens"
        )
    if hardware.device == "cpu" and hardware.threads > hardware.cores:
        found.append(f"{hardware.threads} threads share {hardware.cores} cores: expect it to be slow")
    return found

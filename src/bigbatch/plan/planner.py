"""From facts to a plan: which choice, why, and what it is expected to cost. A pure function of records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bigbatch.errors import DoesNotFit
from bigbatch.facts import (
    CalibrationFacts,
    Choice,
    ForwardFacts,
    HardwareFacts,
    LengthFacts,
    ModelFacts,
    ProbeFacts,
)
from bigbatch.plan import choices as chosen
from bigbatch.plan.batches import cut_batch
from bigbatch.plan.frozen import Plan
from bigbatch.plan.gradients import cost_of, gradient, with_passes
from bigbatch.plan.memory import (
    Division,
    MemoryBreakdown,
    activation_bytes_per_token,
    largest_micro_tokens,
    predict_memory,
)
from bigbatch.plan.noise import noise_scale
from bigbatch.plan.precision import PrecisionFacts
from bigbatch.plan.precision import precision as precision_choices
from bigbatch.plan.recompute import Recomputation, asked, options
from bigbatch.plan.timing import Work
from bigbatch.plan.ways import ways as ways_to_run
from bigbatch.rules.clocks import Length, total_updates
from bigbatch.units import show_bytes

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

_TEMPORARIES = {"lamb": 2.0, "muon": 1.0, "schedule_free": 1.0}
"""fp32 tensors per parameter that a step of this optimiser needs for a moment."""


def make_plan(
    recipe: Recipe,
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts | None = None,
    calibration: CalibrationFacts | None = None,
    optimizer_state_multiple: float = 2.0,
    work: Work | None = None,
    forward: ForwardFacts | None = None,
    precision: PrecisionFacts | None = None,
    weight_copies_bytes: int = 0,
    noise_obstacle: str = "",
) -> Plan:
    """Choose how to compute `recipe`, with a reason and a source for each choice.

    Args:
        recipe: the resolved recipe.
        hardware: what the machine has.
        model: sizes of the model.
        lengths: lengths of the training samples, in tokens.
        probe: whether the unpadded path is exact here; None: it was not tried.
        calibration: measured speeds and sizes; None: times are not predicted and memory is guessed.
        optimizer_state_multiple: fp32 state tensors per parameter (`optim.build.state_multiple`).
        work: exact length of the run and tokens to evaluate.
        forward: what was found out about ways to run the model; None: the plain way.
        precision: number formats as measured; None: nobody asked for another than fp32.
        weight_copies_bytes: copies of the weights in the number format, of one micro-batch.
        noise_obstacle: why the gradient noise cannot be measured; empty when it can.

    Returns:
        The plan, frozen.

    Raises:
        DoesNotFit: the predicted peak exceeds the memory limit; the message names what would fit.
        RecipeError: the length or the batch makes no sense for this data.
    """
    length = work.length if work is not None and work.length is not None else _length(recipe, lengths)
    packing, packing_warnings = chosen.packing(recipe, probe)
    formats, format_warnings = precision_choices(recipe, precision)

    division = _division(recipe, hardware)
    kept = division.share(model)

    replicas = chosen.replicas_here(recipe, hardware.ranks)

    def memory_of(micro_tokens: int, again: Recomputation | None = None) -> MemoryBreakdown:
        return predict_memory(
            model,
            micro_tokens=max(micro_tokens, lengths.longest),
            optimizer_state_multiple=optimizer_state_multiple,
            calibration=calibration,
            temporary_multiple=_TEMPORARIES.get(recipe.optimizer.name, 0.0),
            activation_bytes=None if again is None else again.activation_bytes_per_token,
            weight_copies_bytes=weight_copies_bytes,
            replicas=replicas,
            outer=recipe.sync.outer != "average",
            division=division,
            copies=1 if replicas or kept < 1 else hardware.ranks,
            bitwise=recipe.plan.reproducible == "bitwise",
            weights_kept=cost_of(recipe).weights_kept,
        )

    micro_tokens = chosen.micro_tokens(recipe, calibration, work.measuring.sizes_not_tried if work else "")
    limit_bytes = recipe.plan.memory or hardware.memory_bytes
    recomputable = forward.recomputable_blocks if forward is not None else 0
    ways = list(options(model, activation_bytes_per_token(model, calibration), calibration, recomputable))
    wish = getattr(recipe.plan, "recompute", None)
    allowed = ways if wish is None else [asked(wish, ways, recomputable)]
    fits = _fit(micro_tokens, allowed, lengths.longest, limit_bytes, memory_of)
    if fits is None:
        raise DoesNotFit(_shortfall(recipe, memory_of(micro_tokens.value, allowed[-1]), limit_bytes, None))
    if fits.micro_tokens != micro_tokens.value:
        needed = memory_of(micro_tokens.value, allowed[-1 if micro_tokens.source == "user" else 0])
        micro_tokens = _shrunk(recipe, micro_tokens, needed, limit_bytes, fits.micro_tokens)
    again, memory = fits.again, memory_of(fits.micro_tokens, fits.again)
    noise, measuring = noise_scale(recipe, noise_obstacle, model, length, limit_bytes - memory.running_bytes)
    memory = replace(memory, noise_measurement=measuring)
    batch_samples = max(1, round(length.samples / length.updates))
    cut = cut_batch(lengths, batch_samples, micro_tokens.value, packing.value)
    return Plan(
        choices={
            **chosen.machine(recipe, hardware, formats),
            **chosen.asked_for(recipe, length, None if work is None else work.ramp),
            **chosen.replicas(recipe),
            **gradient(recipe),
            "packing": packing,
            "micro_tokens": micro_tokens,
            **ways_to_run(recipe, packing.value, forward),
            **chosen.recompute(
                again, memory_of(fits.micro_tokens), limit_bytes, wish, known=forward is not None
            ),
            **chosen.evaluation(calibration),
            **noise,
            **chosen.split(cut, batch_samples, lengths),
            **chosen.memory(memory, calibration),
            **chosen.times(
                recipe,
                _shared(with_passes(calibration, recipe), hardware.ranks, kept),
                length,
                cut,
                work,
                again.slowdown,
            ),
        },
        warnings=(
            *length.warnings,
            *packing_warnings,
            *format_warnings,
            *chosen.doubts(recipe, length, lengths, hardware),
        ),
    )


def _division(recipe: Recipe, hardware: HardwareFacts) -> Division:
    mesh = recipe.plan.mesh
    if mesh is None:
        return Division()
    return Division(shard=mesh.shard, tensor=mesh.tensor, on_cpu=hardware.device == "cpu")


def _shared(calibration: CalibrationFacts | None, ranks: int, kept: float) -> CalibrationFacts | None:
    """Seconds as if all ranks were one that is so many times as fast; what travels between them is not counted.

    Args:
        calibration: of one rank with the whole model.
        ranks: how many there are.
        kept: part of the parameters that a rank keeps, and moves.
    """
    if calibration is None or ranks == 1:
        return calibration
    return replace(
        calibration,
        seconds_per_token=calibration.seconds_per_token / ranks,
        seconds_per_token_forward=calibration.seconds_per_token_forward / ranks,
        seconds_per_update=calibration.seconds_per_update * kept,
    )


@dataclass(frozen=True)
class _Fit:
    micro_tokens: int
    again: Recomputation


def _fit(
    choice: Choice,
    ways: list[Recomputation],
    longest: int,
    limit_bytes: int,
    memory_of: Callable[[int, Recomputation], MemoryBreakdown],
) -> _Fit | None:
    """The micro-batch and the recomputation that fit.

    Recomputing nothing in smaller micro-batches comes first: it costs next to nothing. A size that the user named is
    kept while recomputation can help; only the message of the error names a smaller one.
    """

    def sizes(again: Recomputation) -> Iterator[int]:
        yield choice.value
        smaller = largest_micro_tokens(
            memory_of(choice.value, again),
            activation_bytes=again.activation_bytes_per_token,
            below=choice.value,
            longest=longest,
            limit_bytes=limit_bytes,
        )
        if smaller is not None:
            yield smaller

    def fits(size: int, again: Recomputation) -> bool:
        return memory_of(size, again).needed_bytes <= limit_bytes

    found = [_Fit(size, again) for again in ways for size in sizes(again) if fits(size, again)]
    if choice.source == "user":
        found.sort(key=lambda fit: fit.micro_tokens != choice.value)
    return found[0] if found else None


def _length(recipe: Recipe, lengths: LengthFacts) -> Length:
    return total_updates(
        recipe.length,
        recipe.batch.samples,
        lengths.samples,
        batch_tokens=recipe.batch.tokens,
        tokens=lengths.tokens,
        allow_repeats=recipe.batch.allow_repeats,
    )


def _shrunk(
    recipe: Recipe, choice: Choice, needed: MemoryBreakdown, limit_bytes: int, smaller: int | None
) -> Choice:
    """The planner shrinks its own choice; the user's is not touched: say what would fit instead."""
    if smaller is not None and choice.source != "user":
        limit = show_bytes(limit_bytes)
        why = f"{choice.value:,} would need {show_bytes(needed.needed_bytes)}, {limit} may be used"
        return Choice(value=smaller, reason=why, source="derived", unit="tokens")
    raise DoesNotFit(_shortfall(recipe, needed, limit_bytes, smaller))


def _shortfall(recipe: Recipe, needed: MemoryBreakdown, limit_bytes: int, smaller: int | None) -> str:
    """What is needed, what there is, and what would fit."""
    source = "plan.memory" if recipe.plan.memory else "free on this machine"
    message = (
        f"does not fit: the plan needs {show_bytes(needed.needed_bytes)} ({chosen.parts(needed)}), "
        f"but {show_bytes(limit_bytes)} may be used ({source})"
    )
    if smaller is not None:
        return f"{message}; plan.micro_tokens={smaller} would fit, with the same result"
    missing = show_bytes(needed.needed_bytes - limit_bytes)
    return (
        f"{message}; {missing} too little, and no smaller micro-batch is enough: free memory, take a smaller "
        "model, train fewer parameters (model.trainable), take an optimiser with less state "
        "(optimizer.name=sgd) or divide the model over more ranks (plan.mesh.shard)"
    )

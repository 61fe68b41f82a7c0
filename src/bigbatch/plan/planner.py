"""From facts to a plan: which choice, why, and what it is expected to cost. A pure function of records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bigbatch.facts import (
    CalibrationFacts,
    ForwardFacts,
    HardwareFacts,
    LengthFacts,
    ModelFacts,
    ProbeFacts,
)
from bigbatch.plan import choices as chosen
from bigbatch.plan.batches import cut_batch
from bigbatch.plan.fit import MemoryOf, fitted
from bigbatch.plan.frozen import Plan
from bigbatch.plan.gradients import cost_of, gradient, with_passes
from bigbatch.plan.memory import (
    Division,
    MemoryBreakdown,
    activation_bytes_per_token,
    predict_memory,
)
from bigbatch.plan.noise import noise_scale
from bigbatch.plan.precision import PrecisionFacts
from bigbatch.plan.precision import precision as precision_choices
from bigbatch.plan.recompute import Recomputation, asked, options
from bigbatch.plan.timing import Work
from bigbatch.plan.ways import ways as ways_to_run
from bigbatch.recipe.optimizers import AVERAGED, kind_of_optimizer, state_multiple
from bigbatch.rules.clocks import Length, total_updates

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe


def make_plan(
    recipe: Recipe,
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    probe: ProbeFacts | None = None,
    calibration: CalibrationFacts | None = None,
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
    memory_of = _memory_of(recipe, hardware, model, lengths, calibration, division, weight_copies_bytes)
    limit_bytes = recipe.plan.memory or hardware.memory_bytes
    recomputable = forward.recomputable_blocks if forward is not None else 0
    ways = list(options(model, activation_bytes_per_token(model, calibration), calibration, recomputable))
    wish = recipe.plan.recompute
    fit = fitted(
        recipe,
        chosen.micro_tokens(
            recipe, model.hidden, calibration, work.measuring.sizes_not_tried if work else ""
        ),
        ways if wish is None else [asked(wish, ways, recomputable)],
        longest=lengths.longest,
        limit_bytes=limit_bytes,
        memory_of=memory_of,
    )
    room_bytes = limit_bytes - fit.memory.running_bytes
    noise, measuring = noise_scale(recipe, noise_obstacle, model, length, room_bytes)
    batch_samples = max(1, round(length.samples / length.updates))
    cut = cut_batch(lengths, batch_samples, fit.micro_tokens.value, packing.value)
    return Plan(
        choices={
            **chosen.machine(recipe, hardware, formats),
            **chosen.asked_for(recipe, length, None if work is None else work.ramp),
            **chosen.mixture(recipe, lengths, length),
            **chosen.replicas(recipe),
            **gradient(recipe),
            "packing": packing,
            "micro_tokens": fit.micro_tokens,
            **ways_to_run(recipe, packing.value, forward),
            **chosen.recompute(
                fit.again,
                memory_of(fit.micro_tokens.value, None),
                limit_bytes,
                wish,
                known=forward is not None,
            ),
            **chosen.evaluation(calibration),
            **noise,
            **chosen.split(cut, batch_samples, lengths),
            **chosen.memory(replace(fit.memory, noise_measurement=measuring), calibration),
            **chosen.times(
                recipe,
                _shared(with_passes(calibration, recipe), hardware.ranks, kept),
                length,
                cut,
                work,
                fit.again.slowdown,
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


def _memory_of(
    recipe: Recipe,
    hardware: HardwareFacts,
    model: ModelFacts,
    lengths: LengthFacts,
    calibration: CalibrationFacts | None,
    division: Division,
    weight_copies_bytes: int,
) -> MemoryOf:
    """What this run needs for a size of micro-batch and a way to compute activations again."""
    optimizer, replicas = recipe.optimizer, chosen.replicas_here(recipe, hardware.ranks)
    whole_copies = 1 if replicas or division.share(model) < 1 else hardware.ranks

    def memory_of(micro_tokens: int, again: Recomputation | None) -> MemoryBreakdown:
        return predict_memory(
            model,
            micro_tokens=max(micro_tokens, lengths.longest),
            optimizer_state_multiple=state_multiple(optimizer.name, optimizer.momentum, optimizer.state)
            + (AVERAGED if optimizer.args.get("average") is not None else 0.0),
            calibration=calibration,
            temporary_multiple=kind_of_optimizer(optimizer.name).temporaries,
            activation_bytes=None if again is None else again.activation_bytes_per_token,
            weight_copies_bytes=weight_copies_bytes,
            replicas=replicas,
            outer=recipe.sync.outer != "average",
            division=division,
            copies=whole_copies,
            bitwise=recipe.plan.reproducible == "bitwise",
            weights_kept=cost_of(recipe).weights_kept,
        )

    return memory_of


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


def _length(recipe: Recipe, lengths: LengthFacts) -> Length:
    return total_updates(
        recipe.length,
        recipe.batch.samples,
        lengths.samples,
        batch_tokens=recipe.batch.tokens,
        tokens=lengths.tokens,
        allow_repeats=recipe.batch.allow_repeats,
    )

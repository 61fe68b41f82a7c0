"""Measure a little on the real machine, then plan: facts in, a frozen plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from bigbatch.build.bitwise import is_bitwise
from bigbatch.build.compare import PROBE_TOKENS, compared, probe_samples
from bigbatch.build.compiling import try_compiled
from bigbatch.build.coupling import with_cost
from bigbatch.build.excerpt import extrapolated, line
from bigbatch.build.first_blocks import first_blocks
from bigbatch.build.formats import precision_facts
from bigbatch.build.measured import Budget, Measured
from bigbatch.build.measured_before import SPEEDS, Remembered
from bigbatch.build.noise import obstacle
from bigbatch.build.runners import open_runner
from bigbatch.build.writing import writing_seconds
from bigbatch.facts import CalibrationFacts, ForwardFacts, ProbeFacts
from bigbatch.graph.embeddings import large_embeddings
from bigbatch.model.packing import can_pack
from bigbatch.model.patterns import pattern_of, told_pattern
from bigbatch.model.products import has_onednn
from bigbatch.plan.choices import usual_micro_tokens
from bigbatch.plan.forward import Attention, ForwardPlan
from bigbatch.plan.frozen import Plan
from bigbatch.plan.planner import make_plan
from bigbatch.plan.precision import PrecisionFacts, precision
from bigbatch.plan.timing import Load, Measuring, Work
from bigbatch.plan.ways import ways
from bigbatch.probe.calibrate import (
    TRIAL_TOKENS,
    calibrate,
    calibrate_one,
    compare,
    compared_tokens,
)
from bigbatch.probe.load import LoadWatch
from bigbatch.probe.products import onednn_speed
from bigbatch.samples import Packing, Table
from bigbatch.tasks.stand_in import measured_loss


def measured_plan(on: Measured) -> Plan:
    """Probe the ways to run the model, calibrate speed and memory on real micro-batches, plan.

    Raises:
        DoesNotFit: the prediction exceeds the machine's memory.
    """
    budget, watch = Budget(_train_tokens(on)), LoadWatch()
    expected = expected_attention(on)
    packed, last_block = probe_forward(on, expected)
    packing: Packing = "packed" if packed.packed_ok and on.recipe.plan.packing != "padded" else "padded"
    remembered = Remembered.of(on, packing)
    on.say(
        "calibrating: how fast, how much memory?"
        + (" (sizes as measured before)" if remembered.known else "")
    )
    lazy = packing == "packed" and last_block is not None and last_block.packed_ok
    exact = ForwardPlan(packing=packing, last_block="read tokens" if lazy else "all tokens")
    formats = precision_facts(on, exact)
    in_format = precision(on.recipe, formats)[0]
    facts = _forward_facts(on, replace(ForwardPlan.of(in_format), packing=packing), last_block, remembered)
    facts = replace(facts, attention_expected=expected if lazy or facts.pattern else "sdpa")
    how = ForwardPlan.of({**ways(on.recipe, packing, facts), **in_format})
    how = replace(how, packing=packing, compile="off")
    calibration, copies_bytes, not_tried = _calibrate(on, how, remembered, budget, watch)
    compiled = try_compiled(on, how, calibration, budget)
    if compiled is not None:
        facts = replace(facts, compiled=compiled)
        if compiled.ok and on.excerpt:
            faster = compiled.seconds_per_token / compiled.eager_seconds_per_token
            calibration = replace(calibration, seconds_per_token=calibration.seconds_per_token * faster)
        elif compiled.ok:
            calibration = replace(calibration, seconds_per_token=compiled.seconds_per_token)
    load = watch.load() if on.hardware.device == "cpu" else None
    if load is not None and load.busy:
        on.say(f"{load}: the forecast is for a quiet machine")
        calibration = quiet(calibration, load, remembered)
    else:
        remembered.keep(facts, calibration)
    tokens = int(on.lengths.tokens / max(1, on.lengths.samples) * on.length.samples / on.length.updates)
    calibration = with_cost(on.recipe, on.ready.task, calibration, tokens)
    written = writing_seconds(on, load.slowdown if load is not None and load.busy else 1.0)
    measuring = Measuring(load=load, sizes_not_tried=not_tried, writing_seconds=written)
    return _plan(on, packed, calibration, facts, formats, copies_bytes, measuring)


def probe_forward(on: Measured, attention: Attention = "sdpa") -> tuple[ProbeFacts, ProbeFacts | None]:
    """Whether samples can be packed, and whether the last block can be computed for read tokens only.

    All at once, with the attention that will be used: where that succeeds the packed path alone need not be tried.

    Returns:
        Facts of packing; facts of the last block, None where nothing is packed or it was not asked for.
    """
    possible, reason = can_pack(on.ready.module, on.ready.anatomy, on.ready.head.inputs)
    if not possible:
        return ProbeFacts(packed_ok=False, reason=reason, error=None, samples=0), None
    on.say("probing: does the unpadded path give the plain path's numbers on these samples?")
    pattern = pattern_of(on.ready.module)
    # The plain way computes all pairs of a sample, which is what a pattern is there to avoid.
    samples = probe_samples(on.batches, most_tokens=None if pattern is None else PROBE_TOKENS)
    alone = ForwardPlan(packing="packed", attention="sdpa" if pattern is None else attention)
    if on.recipe.plan.lazy is not False:
        both = compared(
            on.ready, ForwardPlan(packing="packed", last_block="read tokens", attention=attention), samples
        )
        if both.packed_ok:
            return both, both
        return compared(on.ready, alone, samples), both
    return compared(on.ready, alone, samples), None


def _train_tokens(on: Measured) -> float:
    """Of the whole run."""
    return on.length.samples * on.lengths.tokens / max(1, on.lengths.samples)


def quiet(calibration: CalibrationFacts, load: Load, remembered: Remembered) -> CalibrationFacts:
    """What was measured beside other work, as it would be without: as it once was, else less the waiting.

    Args:
        calibration: what was measured now.
        load: of the machine meanwhile.
        remembered: what was measured before, at a time without other work.
    """
    speeds = remembered.speeds or {name: getattr(calibration, name) / load.slowdown for name in SPEEDS}
    return replace(calibration, **speeds)


def _plan(
    on: Measured,
    packed: ProbeFacts,
    calibration: CalibrationFacts,
    facts: ForwardFacts,
    formats: PrecisionFacts | None,
    copies_bytes: int,
    measuring: Measuring,
) -> Plan:
    return make_plan(
        on.recipe,
        on.hardware,
        on.model,
        on.lengths,
        packed,
        calibration,
        Work(
            length=on.length,
            ramp=on.ramp,
            validation_tokens=sum(
                _tokens(on.tables, name) for name in on.tables if name.startswith("validation")
            ),
            test_tokens=_tokens(on.tables, "test"),
            derived_tokens=sum(
                _tokens(on.tables, name)
                for need in on.ready.task.needs
                for name in on.tables
                if need.guide is None
            ),
            measuring=measuring,
        ),
        facts,
        formats,
        copies_bytes,
        obstacle(on.recipe, on.ready.task),
    )


def _forward_facts(
    on: Measured, base: ForwardPlan, last_block: ProbeFacts | None, remembered: Remembered
) -> ForwardFacts:
    """What is known before sizes are tried; attention kernels are timed where there is a choice."""
    module, packing = on.ready.module, base.packing
    on_cpu = on.hardware.device == "cpu"
    drops = on_cpu and any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules())
    tried, failed = remembered.attention, dict[str, str]()
    kernels = attention_kernels(on, packing)
    # A CPU's are timed only where the user named one: it costs more than it could save.
    wanted = not on_cpu or on.recipe.plan.attention is not None
    if wanted and len(kernels) > 1 and not set(kernels) <= set(tried):
        typical = on.pieces(packing, on.recipe.plan.micro_tokens or compared_tokens(on.hardware.device))
        middle = [typical[len(typical) // 2]]
        ways = {name: partial(open_runner, on.ready, replace(base, attention=name)) for name in kernels}
        tried, failed = compare(ways, measured_loss(on.ready.task), module, middle)
    return ForwardFacts(
        last_block=last_block,
        attention_seconds=tried,
        attention_failed=failed,
        # A tree of sums needs each micro-batch's gradient apart.
        embedding_rows=0
        if is_bitwise(on.recipe)
        else sum(part.num_embeddings for part in large_embeddings(module)),
        drops_on_cpu=drops,
        pattern=told_pattern(module, on.tables["train"].lengths_B),
        onednn_speed=onednn_speed(module) if on_cpu and base.precision == "fp32" and has_onednn() else None,
        recomputable_blocks=on.recomputable_blocks,
    )


def expected_attention(on: Measured) -> Attention:
    """Of the kernels that a CPU has for this model, the one that was fastest wherever it was measured."""
    if pattern_of(on.ready.module) is not None and on.recipe.plan.lazy is not False:
        return on.recipe.plan.attention or "chunked"
    if on.hardware.device != "cpu" or on.recipe.plan.attention is not None:
        return "sdpa"
    return "chunked" if "chunked" in attention_kernels(on, "packed") else "sdpa"


def attention_kernels(on: Measured, packing: Packing) -> tuple[Attention, ...]:
    """Kernels worth trying, by device: on a CPU only dropout of attention weights makes a difference, and a pattern."""
    asked, pattern = on.recipe.plan.attention, pattern_of(on.ready.module)
    if pattern is not None and packing == "packed" and asked is None and on.recipe.plan.lazy is not False:
        on_cpu, window = on.hardware.device == "cpu", pattern.is_window
        return ("chunked",) if on_cpu else ("chunked", "flex", "flash") if window else ("chunked", "flex")
    if packing == "padded" or (on.recipe.plan.lazy is False and asked is None):
        return ("sdpa",)
    if asked is not None:
        return ("sdpa", asked) if asked != "sdpa" else ("sdpa",)
    if on.hardware.device == "cpu":
        config = on.ready.anatomy.outer.config.to_dict()  # type: ignore[union-attr,operator]
        rates = [value for key, value in config.items() if key in _ATTENTION_DROPOUT]
        return ("sdpa", "chunked") if any(rates) else ("sdpa",)
    return ("sdpa", "flash", "flex")


_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "attn_dropout")


def _calibrate(
    on: Measured, how: ForwardPlan, remembered: Remembered, budget: Budget, watch: LoadWatch
) -> tuple[CalibrationFacts, int, str]:
    """Speed and memory, and the bytes of weights that each pass copies; of the whole model, also from an excerpt.

    Last why sizes were not tried; empty where they were, or where the user named one.
    """
    asked, not_tried = on.recipe.plan.micro_tokens, ""
    sizes = _Sizes(on, remembered)
    found, copies_bytes = _timed(on, how, sizes, budget)
    if sizes.unknown and on.hardware.device == "cpu":
        seconds, load = TRIAL_TOKENS * found.seconds_per_token, watch.load()
        not_tried = budget.refusal(seconds, found.seconds_per_token, may_save=_SIZES_MAY_SAVE)
        if load is not None and load.busy:
            not_tried = f"{load}: speeds cannot be compared"
        if not not_tried:
            found, copies_bytes = _timed(on, how, None, budget)
    if on.excerpt:
        with first_blocks(on.ready.module, on.ready.anatomy, 1) as kept:
            one, one_copies = _timed(
                replace(on, ready=replace(on.ready, anatomy=kept)),
                how,
                _Sizes(on, remembered, found.micro_tokens, found.evaluation_micro_tokens),
                budget,
            )
        found = extrapolated(one, found, on)
        copies_bytes = round(line(one_copies, copies_bytes, on.model.blocks))
    tried = found.tried if asked else remembered.tried_together(found.tried)
    return replace(found, tried=tried), copies_bytes, not_tried


_SIZES_MAY_SAVE = 0.01
"""Share of a run on a CPU that another size of micro-batch than the default saved where it was measured."""


_EVALUATION_USUAL = 2048
"""Tokens of an evaluation's micro-batch on a CPU: of 384 values a token, 2,000 to 4,000 were fastest."""
_FORECAST_WORTH = 0.003
"""Share of a run that a second and a third timed micro-batch may take: a median forecasts better than one."""


class _Sizes:
    """The sizes that are measured alone: named by the user, known, or a CPU's defaults."""

    def __init__(
        self, on: Measured, remembered: Remembered, training: int | None = None, evaluation: int | None = None
    ) -> None:
        asked, known = on.recipe.plan.micro_tokens, remembered.known
        usual = usual_micro_tokens(on.model.hidden)
        self.unknown = not (asked or known or training)
        self.training = training or asked or (remembered.micro_tokens if known else usual)
        self.evaluation = evaluation or (
            asked or (remembered.evaluation_micro_tokens if known else max(_EVALUATION_USUAL, usual))
        )


def _timed(
    on: Measured, how: ForwardPlan, sizes: _Sizes | None, budget: Budget
) -> tuple[CalibrationFacts, int]:
    """Measure these sizes alone, or try several: where None is named, and on an accelerator where none is known."""
    forward = open_runner(on.ready, how)
    what = (forward, measured_loss(on.ready.task), on.ready.module, partial(on.pieces, how.packing))
    try:
        if on.hardware.device == "cpu" and sizes is not None:
            found = calibrate_one(
                *what,
                on.new_optimizer,
                micro_tokens=sizes.training,
                evaluation_micro_tokens=sizes.evaluation,
                more=lambda seconds, each: not budget.refusal(seconds, each, may_save=_FORECAST_WORTH),
                in_place=forward.in_place,
                weight_copies_bytes=forward.weight_copies_bytes,
            )
        else:
            named = None if sizes is None or sizes.unknown else sizes
            found = calibrate(
                *what,
                on.new_optimizer,
                candidates=[named.training] if named else None,
                evaluation_candidates=[named.evaluation] if named else None,
                memory_bytes=on.memory_bytes,
                say=on.say,
                in_place=forward.in_place,
                weight_copies_bytes=forward.weight_copies_bytes,
            )
        return found, forward.weight_copies_bytes
    finally:
        forward.close()


def _tokens(tables: Mapping[str, Table], name: str) -> int:
    return int(tables[name].lengths_B.sum()) if name in tables else 0

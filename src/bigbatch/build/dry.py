"""A few updates of rank 0 among many, for their shapes alone: what it would hold and what it would send.

The parts are those of a real run (`build`), and so is the update; the other ranks are imagined (`parallel.dry`) and the
model's tensors have no memory (`probe.dry`). Speed is not looked at: another machine will compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from torch import nn

from bigbatch.build.build import Progress, Say
from bigbatch.build.compare import probe_samples
from bigbatch.build.inputs import Live
from bigbatch.build.measured import Measured
from bigbatch.build.only import plan_only
from bigbatch.build.parts import Parts
from bigbatch.build.runners import open_runner
from bigbatch.data.batches import Batches
from bigbatch.data.packs import cut_table
from bigbatch.errors import DoesNotFit, UsageError
from bigbatch.facts import Choice, ForwardFacts, ProbeFacts
from bigbatch.model.anatomy import evaluating
from bigbatch.model.packing import can_pack
from bigbatch.model.patterns import told_pattern
from bigbatch.parallel.dry import EVERYBODY, Collective, arrangement, axis_names, group_of_one
from bigbatch.places import Place
from bigbatch.plan.dry import DryRun, Peak, Traffic
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.frozen import Plan
from bigbatch.plan.planner import make_plan
from bigbatch.plan.precision import PrecisionFacts
from bigbatch.plan.timing import Work
from bigbatch.probe.dry import Shapes
from bigbatch.protocols import Rates
from bigbatch.recipe.schema import Recipe
from bigbatch.samples import GlobalBatch
from bigbatch.step.apart import Apart
from bigbatch.step.replicas import Replicas
from bigbatch.tasks.ready import Ready
from bigbatch.units import show_bytes

_ENDLESS_BYTES = 2**60
_NOT_SAID = (
    "threads",
    "embedding_gradients",
    "dropout_masks",
    "compile",
    "accumulation",
    "peak_memory_bytes",
)
"""Choices of a plan that speak of this machine, or of a rank that is alone."""


def dry_run(
    recipe: Recipe, ranks: int | None, say: Say, progress: Progress | None = None
) -> tuple[Parts, DryRun]:
    """Build rank 0 of a run and let it make some updates without numbers.

    Args:
        recipe: what to compute.
        ranks: how many there are; None: as `plan.ranks` or `plan.mesh` say.
        say: told each step that can take a while.
        progress: (what, done, total) while tokenising.

    Returns:
        The parts, whose plan is arithmetic alone; what was found.

    Raises:
        UsageError: the number of ranks is not known, or they cannot be arranged so.
        DoesNotFit: rank 0's tensors exceed `plan.memory`.
    """
    count, limit_bytes = _count(recipe, ranks), recipe.plan.memory
    recipe, notes = as_shapes(recipe)
    shapes = Shapes()
    with group_of_one(count) as world, ExitStack() as stack:

        def planned(module: nn.Module) -> None:
            shapes.empty(module)
            stack.enter_context(shapes.alone())

        parts = plan_only(
            recipe,
            Live(),
            say,
            progress,
            world=world,
            place=Place(rank=0, size=count, local_rank=0, local_size=1),
            planner=unmeasured_plan,
            planned=planned,
        )
        say("running some updates for their shapes")
        found = replace(look_at(parts, shapes), notes=notes)
    parts.plan = _without_this_machine(parts.plan)
    if limit_bytes is not None and found.peak.total_bytes > limit_bytes:
        raise DoesNotFit(_shortfall(found.peak, limit_bytes))
    return parts, found


def _count(recipe: Recipe, ranks: int | None) -> int:
    mesh = recipe.plan.mesh
    product = None if mesh is None else mesh.replicate * mesh.shard * mesh.tensor
    count = ranks or recipe.plan.ranks or product
    if count is None or count < 2:
        raise UsageError("--dry-run looks at one rank among several: say how many with --ranks N")
    return count


def as_shapes(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe as it can be run for its shapes on a CPU, whatever the ranks will have; what that leaves out."""
    notes = ["memory is that of tensors: add what the device's libraries, kernels and allocator take"]
    changed: dict[str, object] = {"device": "cpu", "compile": "off", "memory": None}
    if recipe.plan.attention in ("flash", "flex"):
        changed["attention"] = "sdpa"
        notes.append(f"plan.attention: {recipe.plan.attention} needs an accelerator; sdpa stands in for it")
    return recipe.model_copy(update={"plan": recipe.plan.model_copy(update=changed)}), tuple(notes)


def unmeasured_plan(on: Measured) -> Plan:
    """A plan without measurements: what can be packed is, as if `train` had found the same numbers already."""
    packed, last_block = _ways(on)
    pattern = told_pattern(on.ready.module, on.tables["train"].lengths_B)
    return make_plan(
        on.recipe,
        replace(on.hardware, memory_bytes=_ENDLESS_BYTES),
        on.model,
        on.lengths,
        packed,
        None,
        Work(length=on.length),
        ForwardFacts(
            last_block=last_block,
            recomputable_blocks=on.recomputable_blocks,
            attention_expected="chunked" if pattern else "sdpa",
            pattern=pattern,
        ),
        PrecisionFacts(),
    )


def _ways(on: Measured) -> tuple[ProbeFacts, ProbeFacts | None]:
    """Whether samples can be packed, and the last block be computed for read tokens only: it is tried, not compared.

    Comparing takes gradients, and this machine may have no room for those of the whole model.
    """
    possible, reason = can_pack(on.ready.module, on.ready.anatomy, on.ready.head.inputs)
    if not possible:
        return ProbeFacts(packed_ok=False, reason=reason, error=None, samples=0), None
    packed = ProbeFacts(packed_ok=True, reason=_ASSUMED, error=None, samples=0)
    if on.recipe.plan.lazy is False:
        return packed, None
    trouble = _trouble(on.ready, ForwardPlan(packing="packed", last_block="read tokens"), on.batches)
    return packed, ProbeFacts(packed_ok=not trouble, reason=trouble or _ASSUMED, error=None, samples=0)


_ASSUMED = "it runs; train also compares it with the plain way"


def _trouble(ready: Ready, how: ForwardPlan, batches: Batches) -> str:
    """Why two samples cannot be run in this way; empty when they can."""
    forward = open_runner(ready, how)
    try:
        with evaluating(ready.module):
            forward(probe_samples(batches, 2)[0])
    except Exception as error:  # whatever a model does not take; the plan does without
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        forward.close()
    return ""


def _without_this_machine(plan: Plan) -> Plan:
    kept = {name: choice for name, choice in plan.choices.items() if name not in _NOT_SAID}
    if kept["recompute"].source != "user":
        del kept["recompute"]  # nobody asked, and what would fit is not known
    device = Choice(value="any", reason="a dry run looks at shapes, on whatever device", source="default")
    ranks = Choice(value=plan.value("ranks"), reason="imagined by the dry run", source="user")
    return replace(plan, choices={**kept, "device": device, "ranks": ranks})


def _shortfall(peak: Peak, limit_bytes: int) -> str:
    return (
        f"does not fit: the tensors of rank 0 take {show_bytes(peak.total_bytes)} during {peak.phase} "
        f"(model {show_bytes(peak.model_bytes)}, optimiser state and what else stays "
        f"{show_bytes(peak.lasting_bytes)}, gradients, activations and gathered parameters "
        f"{show_bytes(peak.passing_bytes)}), but plan.memory allows {show_bytes(limit_bytes)}; "
        "a larger plan.mesh.shard, smaller plan.micro_tokens, plan.recompute=blocks or fewer trained parameters "
        "(model.adapter, model.trainable) take less"
    )


# ---------------------------------------------------------------- the updates


@dataclass(frozen=True, kw_only=True)
class _Watched:
    """One update."""

    sent: Sequence[Collective]
    peak_bytes: int
    peak_phase: str
    met: bool
    """Whether replicas met in it."""
    batch: GlobalBatch
    micro_batches: int
    micro_tokens: int


def look_at(parts: Parts, shapes: Shapes) -> DryRun:
    """Make the updates that show all there is, under the eyes of `shapes`; numbers may be there or not."""
    world, apart = parts.strategy.world, _replicas(parts)
    model_bytes = _model_bytes(parts)
    seen = [_watched(parts, shapes, batch) for batch in _updates(parts)]
    lasting_bytes = shapes.bytes_now - model_bytes
    top = max(seen, key=lambda one: one.peak_bytes)
    usual, meeting = (next((one for one in reversed(seen) if one.met is met), None) for met in (False, True))
    last = usual or seen[-1]
    axes = axis_names(world)
    period = "" if apart is None else f"every {parts.recipe.sync.period} updates"
    return DryRun(
        ranks=world.size,
        arrangement=arrangement(world),
        data_ranks=world.part.size,
        pieces=0 if apart is not None else _pieces(parts, last.batch),
        micro_batches=last.micro_batches,
        micro_tokens=max(one.micro_tokens for one in seen),
        peak=Peak(
            total_bytes=top.peak_bytes,
            model_bytes=model_bytes,
            lasting_bytes=lasting_bytes,
            phase=top.peak_phase,
        ),
        update=_summed(usual.sent, axes) if usual is not None else (),
        meeting=_summed(meeting.sent, axes) if meeting is not None else (),
        period=period if parts.recipe.sync.period != "auto" else "as measured",
    )


def _replicas(parts: Parts) -> Replicas | None:
    """Those that train apart, if any do."""
    return parts.strategy.replicas if isinstance(parts.strategy, Apart) else None


def _updates(parts: Parts) -> Iterator[GlobalBatch]:
    """The first, in which optimisers make their state, and those that show the rest."""
    numbers = [1, 2]
    if _replicas(parts) is not None:
        period = parts.recipe.sync.period
        numbers = [1, 2, 3] if period == "auto" else sorted({1, int(period), int(period) + 1})
    position = 0
    for number in numbers:
        batch = parts.batches.at(position, number)
        yield batch
        position += batch.samples


def _watched(parts: Parts, shapes: Shapes, batch: GlobalBatch) -> _Watched:
    """Make one update without numbers."""
    apart = _replicas(parts)
    pieces = list(parts.strategy.pieces(batch, parts.cut))
    before, meetings = len(shapes.sent), 0 if apart is None else apart.rhythm.meetings
    shapes.phase = "forward and backward"
    shapes.forget_peak()
    with _phases(parts, shapes):
        parts.strategy.update(batch, pieces, Rates(lr=parts.clocks.effective.lr))
    return _Watched(
        sent=shapes.sent[before:],
        peak_bytes=shapes.peak_bytes,
        peak_phase=shapes.peak_phase,
        met=apart is not None and apart.rhythm.meetings > meetings,
        batch=batch,
        micro_batches=len(pieces),
        micro_tokens=max((piece.computed_tokens for piece in pieces), default=0),
    )


@contextmanager
def _phases(parts: Parts, shapes: Shapes) -> Iterator[None]:
    """Tell when an optimiser moves the weights."""
    apart = _replicas(parts)
    optimizers = [parts.strategy.optimizer] if apart is None else [one.optimizer for one in apart.held]

    def entered(*_: object) -> None:
        shapes.phase = "the optimiser's step"

    def left(*_: object) -> None:
        shapes.phase = "forward and backward" if apart is None else "training apart and meeting"

    handles = [one.register_step_pre_hook(entered) for one in optimizers]
    handles += [one.register_step_post_hook(left) for one in optimizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _model_bytes(parts: Parts) -> int:
    """Of parameters and buffers that this rank holds, those in one memory once."""
    storages = {}
    for tensor in (*parts.module.parameters(), *parts.module.buffers()):
        storage = parts.strategy.world.local(tensor).untyped_storage()
        storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def _pieces(parts: Parts, batch: GlobalBatch) -> int:
    """Micro-batches of an update, over all ranks."""
    part = parts.strategy.world.part
    return len(cut_table(batch.table, parts.micro_tokens, parts.packing, part))


def _summed(sent: Sequence[Collective], axes: dict[str, str]) -> tuple[Traffic, ...]:
    """Collectives of one kind and group together."""
    calls: Counter[tuple[str, str, int]] = Counter()
    payload: Counter[tuple[str, str, int]] = Counter()
    for one in sent:
        key = (one.kind, axes.get(one.group, EVERYBODY), one.ranks)
        calls[key] += 1
        payload[key] += one.payload_bytes
    return tuple(
        Traffic(collective=kind, axis=axis, ranks=ranks, calls=calls[key], payload_bytes=payload[key])
        for key in calls
        for kind, axis, ranks in [key]
    )

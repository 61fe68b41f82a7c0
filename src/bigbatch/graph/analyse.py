"""One real micro-batch, forward, loss and backward, under observation: what it costs, and what nobody reads.

Whatever transformers' dynamic code does, it ends in operations of torch's dispatcher; those are watched.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.graph.findings import Seen, all_findings, unread_share
from bigbatch.graph.places import Places
from bigbatch.graph.trace import Operation, Trace, watching
from bigbatch.model.anatomy import Anatomy, device_of
from bigbatch.model.untouched import untouched
from bigbatch.plan.graph import Cost, GraphAnalysis, ModuleCost, PartCost, total
from bigbatch.protocols import Forward, Losses
from bigbatch.samples import MicroBatch
from bigbatch.tasks.losses import shares_of


def analyse(
    forward: Forward,
    task: Losses,
    module: nn.Module,
    anatomy: Anatomy,
    micro_batch: MicroBatch,
) -> GraphAnalysis:
    """Run a micro-batch once, as training would, and account for every operation.

    Weights, gradients, buffers, modes and generators are as before afterwards.

    Args:
        forward: the path that is analysed: padded, packed, lazy; each gives its own figures.
        task: gives the loss.
        module: the model behind `forward`, on its device.
        anatomy: its parts.
        micro_batch: real samples, as the forward expects them.

    Returns:
        Figures for this micro-batch. FLOPs are torch's formulas (`torch.utils.flop_counter`).
    """
    started = time.perf_counter()
    blocks = {application.module: None for application in anatomy.blocks}
    with untouched(module):
        module.train()
        with _gradients(module) as got_gradient:
            trace, roots = _run(forward, task, module, blocks, micro_batch)
            zero = {name for name in got_gradient if _is_zero(module.get_parameter(name).grad)}
    seen = Seen(
        trace=trace,
        places=Places(module, anatomy),
        needed=trace.flow.needed(roots),
        micro_batch=micro_batch,
        module=module,
        got_gradient=frozenset(got_gradient),
        zero_gradient=frozenset(zero),
        timed=device_of(module).type == "cpu",
    )
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    parts = _parts(seen)
    findings, notes = all_findings(seen, total(part.cost for part in parts))
    return GraphAnalysis(
        forward=micro_batch.packing,
        device=str(device_of(module)),
        precision=str(next(module.parameters()).dtype).removeprefix("torch."),
        samples=len(micro_batch.lengths_B),
        real_tokens=micro_batch.tokens,
        computed_tokens=micro_batch.computed_tokens,
        trained_parameters=sum(parameter.numel() for parameter in parameters),
        parts=parts,
        findings=findings,
        notes=notes,
        analysis_seconds=time.perf_counter() - started,
    )


def _run(
    forward: Forward, task: Losses, module: nn.Module, blocks: dict[nn.Module, None], micro_batch: MicroBatch
) -> tuple[Trace, set[int]]:
    """The trace, and the operations whose results are really read."""
    device = device_of(module)
    denominators = task.denominators(micro_batch.targets)
    with watching(module, blocks) as trace:
        with trace.stage("forward", "inputs"):
            outputs = forward(micro_batch)
        with trace.stage("loss", "loss"):
            targets = micro_batch.targets.map(lambda values: _tensor(values, device))
            shares = shares_of(task.loss(outputs, targets), denominators)
            loss = torch.stack([*shares.values()]).sum()
        roots = trace.flow.reads([loss])
        trace.phase = "backward"
        if loss.requires_grad:
            loss.backward()
    # Whatever the backward pass did, it read; an operation without result is for the host or for a side effect.
    roots |= {
        number
        for number, operation in enumerate(trace.operations)
        if operation.phase in ("backward", "recompute") or not operation.written_bytes
    }
    return trace, roots


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    # A copy: arrays of the token cache are memory-mapped and read-only, which torch does not take.
    return torch.from_numpy(np.array(values)).to(device)


@contextmanager
def _gradients(module: nn.Module) -> Iterator[set[str]]:
    """Zero gradients to add to, as from the second micro-batch on; yields the names of those that are added to."""
    touched: set[str] = set()
    handles = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            note = lambda _, name=name: touched.add(name)  # noqa: E731
            handles.append(parameter.register_post_accumulate_grad_hook(note))
    try:
        yield touched
    finally:
        for handle in handles:
            handle.remove()


def _is_zero(gradient: Tensor | None) -> bool:
    return gradient is None or not bool(gradient.any())


# ---------------------------------------------------------------- costs


def _parts(seen: Seen) -> tuple[PartCost, ...]:
    """Costs by part and, inside, by module, in the order in which they first ran."""
    trace, places = seen.trace, seen.places
    found: dict[str, dict[tuple[str, str], list[Cost]]] = defaultdict(lambda: defaultdict(list))
    for call in trace.calls:  # modules without an operation of their own have a place too
        found[places.part(call)][places.inside(call), call.kind]
    for operation in trace.operations:
        call = trace.calls[operation.call] if operation.call >= 0 else None
        found[places.part(call)][places.inside(call), call.kind if call else ""].append(
            _cost(operation, seen.timed)
        )
    for number, kept in trace.kept.items():
        call = trace.calls[number] if number >= 0 else None
        found[places.part(call)][places.inside(call), call.kind if call else ""].append(Cost(kept_bytes=kept))
    unread = unread_share(seen)
    parts = []
    for name, modules in found.items():
        lines = [
            ModuleCost(name=inside, kind=kind, cost=total(costs), unread_fraction=unread.get((name, inside)))
            for (inside, kind), costs in modules.items()
            if costs
        ]
        if lines:
            parts.append(
                PartCost(
                    name=name,
                    cost=total(line.cost for line in lines),
                    modules=tuple(lines),
                    unread_flops=round(
                        sum(line.cost.flops * (line.unread_fraction or 0.0) for line in lines)
                    ),
                )
            )
    return tuple(parts)


def _cost(operation: Operation, timed: bool) -> Cost:
    flops = {"backward": 0, "recompute": 0, "forward": 0}
    flops["forward" if operation.phase == "loss" else operation.phase] = operation.flops
    return Cost(
        forward_flops=flops["forward"],
        backward_flops=flops["backward"],
        recompute_flops=flops["recompute"],
        read_bytes=operation.read_bytes,
        written_bytes=operation.written_bytes,
        seconds=operation.seconds if timed else None,
        operations=1,
    )


def middle(micro_batches: Sequence[MicroBatch]) -> MicroBatch:
    """The micro-batch to analyse: they come in order of length, so the middle one is the typical one."""
    return micro_batches[len(micro_batches) // 2]

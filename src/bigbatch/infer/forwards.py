"""A tokenised table through the model: outputs in table order, however it was cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event, Lock
from typing import Any

import numpy as np
import torch
from torch import nn

from bigbatch.data.packs import evaluation_batches
from bigbatch.infer.quick import Quick
from bigbatch.parallel.agree import OutOfMemory, memory_errors, together
from bigbatch.places import ALL
from bigbatch.protocols import Forward, World
from bigbatch.samples import MicroBatch, Packing, Table, Targets, flat_indexes
from bigbatch.tasks.base import Keep

FEWEST_TOKENS = 16
"""A micro-batch that does not fit is halved down to this."""


@contextmanager
def inferring(forward: Forward) -> Iterator[None]:
    """Eval mode (no dropout, so no generator is touched) and no gradient; every part's own mode comes back."""
    module = getattr(forward, "module", None)
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        # Parameters that are gathered for a block are used for training, too.
        divided = isinstance(module, nn.Module) and any(
            hasattr(item, "placements") for item in module.parameters()
        )
        with torch.no_grad() if divided else torch.inference_mode():
            yield
    finally:
        for part, training in zip(parts, modes, strict=True):
            part.training = training


def run_forward(
    forward: Forward,
    table: Table,
    *,
    micro_tokens: int,
    packing: Packing | None = None,
    keep: Keep | None = None,
    world: World | None = None,
) -> np.ndarray:
    """Outputs of all units of a table, in table order.

    Args:
        forward: gives (U, C) outputs of a micro-batch.
        table: a tokenised split.
        micro_tokens: upper bound of computed tokens of a micro-batch.
        packing: `packed` or `padded`, as the forward expects it; None: the quickest way that the forward knows.
        keep: what to keep of a micro-batch's outputs; None keeps them whole.
        world: the ranks that share the work; each gets all outputs. None: this process does it alone.

    Returns:
        (all units, C), fp64 where the model is, else fp32; (all units, k) of `keep`.
    """
    part = ALL if world is None else world.part

    def outputs() -> list[tuple[np.ndarray, np.ndarray]]:
        with _ways(forward, table, packing) as (runs, way):
            return _fitting(
                forward,
                micro_tokens,
                lambda tokens: _all_kept(
                    runs,
                    evaluation_batches(table, micro_tokens=tokens, packing=way, part=part),
                    lambda found, micro_batch: _kept(found, micro_batch, table, keep),
                ),
            )

    if world is None or world.size == 1:
        return _in_order(outputs(), table)
    mine = together(world, outputs)
    return _in_order(list(zip(*map(world.gather_rows, _joined(mine)), strict=True)), table)


Kept = tuple[np.ndarray, np.ndarray]


def _fitting(forward: Forward, micro_tokens: int, run: Callable[[int], list[Kept]]) -> list[Kept]:
    """Run with as many tokens at a time as asked for; where an accelerator has no room for them, with half, and so on.

    The model that predicts files window by window remembers what went.
    """
    if not isinstance(forward, Quick):
        with memory_errors():
            return run(micro_tokens)
    tokens = min(micro_tokens, forward.most_tokens or micro_tokens)
    while True:
        try:
            with memory_errors():
                return run(tokens)
        except OutOfMemory:
            if forward.device.type == "cpu" or tokens // 2 < FEWEST_TOKENS:
                raise
        tokens //= 2
        forward.most_tokens = tokens
        if forward.device.type == "cuda":
            torch.cuda.empty_cache()


def _all_kept(
    runs: Sequence[Forward],
    micro_batches: Iterable[MicroBatch],
    keep: Callable[[Any, MicroBatch], Kept],
) -> list[Kept]:
    """What is kept of every micro-batch, in any order; several forwards take the next one as they get free."""
    source, lock, stopped = iter(micro_batches), Lock(), Event()

    def work(run: Forward) -> list[Kept]:
        found = []
        with inferring(run):  # inference mode belongs to a thread
            while not stopped.is_set():
                with lock:
                    micro_batch = next(source, None)
                if micro_batch is None:
                    break
                try:
                    found.append(keep(run(micro_batch), micro_batch))
                except BaseException:
                    stopped.set()
                    raise
        return found

    if len(runs) == 1:
        return work(runs[0])
    with ThreadPoolExecutor(len(runs), "bigbatch-device") as pool:
        waiting = [pool.submit(work, run) for run in runs]
        return [kept for future in waiting for kept in future.result()]


def _kept(
    outputs: Any, micro_batch: MicroBatch, table: Table, keep: Keep | None
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a micro-batch's units (U,), and what is kept of each (U, C)."""
    if keep is not None:
        outputs = keep(outputs, _tensors(micro_batch.targets, outputs))
    found_UC = _on_host(outputs)
    samples_B = micro_batch.sample_ids_B[micro_batch.sample_ids_B >= 0]
    units_U, _ = flat_indexes(table.unit_offsets, samples_B)
    # Filler comes last, and is nobody's.
    return units_U, found_UC[: len(units_U)]


def _joined(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All units of a rank (U, 1), and their outputs (U, C); a rank without any has at least the shape."""
    units_U = np.concatenate([units for units, _ in found] or [np.empty(0, np.int64)])
    outputs_UC = np.concatenate([outputs for _, outputs in found] or [np.empty((0, 1), np.float32)])
    return units_U[:, None], outputs_UC


def _in_order(found: Sequence[tuple[np.ndarray, np.ndarray]], table: Table) -> np.ndarray:
    """Outputs in table order (all units, C)."""
    # Without any unit there is at least the shape, where some micro-batch was run.
    shapes = [outputs for _, outputs in found] or [np.empty((0, 1), np.float32)]
    first = next((outputs for outputs in shapes if len(outputs)), shapes[0])
    whole_UC = np.empty((int(table.unit_offsets[-1]), first.shape[1]), first.dtype)
    for units_U, outputs_UC in found:
        whole_UC[units_U.reshape(-1)] = outputs_UC
    return whole_UC


def _ways(
    forward: Forward, table: Table, packing: Packing | None
) -> AbstractContextManager[tuple[Sequence[Forward], Packing]]:
    if packing is None and isinstance(forward, Quick):
        return forward.quickest(table)
    return nullcontext(([forward], packing or "padded"))


def _tensors(targets: Targets, outputs: Any) -> Targets:
    """The targets where the outputs are."""
    device = getattr(outputs, "device", "cpu")
    return targets.map(lambda values: torch.from_numpy(np.array(values)).to(device))


def _on_host(outputs: Any) -> np.ndarray:
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    return wide.cpu().numpy()

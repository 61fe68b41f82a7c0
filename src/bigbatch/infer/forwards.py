"""A tokenised table through the model: outputs in table order, however it was cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from bigbatch.data.packs import evaluation_batches
from bigbatch.data.ragged import flat_indexes
from bigbatch.infer.quick import QuickForward
from bigbatch.protocols import Forward
from bigbatch.records import Packing, Targets, TokenTable


@contextmanager
def inferring(forward: Forward) -> Iterator[None]:
    """Eval mode (no dropout, so no generator is touched) and no gradient; every part's own mode comes back."""
    module = getattr(forward, "module", None)
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        with torch.inference_mode():
            yield
    finally:
        for part, training in zip(parts, modes, strict=True):
            part.training = training


Reduce = Callable[[Any, Targets], torch.Tensor]
"""(outputs of U units, their targets) -> what is kept of each (U, k)."""


def run_forward(
    forward: Forward,
    table: TokenTable,
    *,
    micro_tokens: int,
    packing: Packing | None = None,
    reduce: Reduce | None = None,
) -> np.ndarray:
    """Outputs of all units of a table, in table order.

    Args:
        forward: gives (U, C) outputs of a micro-batch.
        table: a tokenised split.
        micro_tokens: upper bound of computed tokens of a micro-batch.
        packing: `packed` or `padded`, as the forward expects it; None: the quickest way that the forward knows.
        reduce: what to keep of a micro-batch's outputs; None keeps them whole.

    Returns:
        (all units, C), fp64 where the model is, else fp32; (all units, k) of `reduce`.
    """
    outputs_UC: np.ndarray | None = None
    with _way(forward, table, packing) as (run, packing), inferring(forward):
        for micro_batch in evaluation_batches(table, micro_tokens=micro_tokens, packing=packing):
            outputs = run(micro_batch)
            if reduce is not None:
                outputs = reduce(outputs, _tensors(micro_batch.targets, outputs))
            found_UC = _on_host(outputs)
            samples_B = micro_batch.sample_ids_B[micro_batch.sample_ids_B >= 0]  # filler comes last
            units_U, _ = flat_indexes(table.unit_offsets, samples_B)
            if outputs_UC is None:
                outputs_UC = np.empty((int(table.unit_offsets[-1]), found_UC.shape[1]), found_UC.dtype)
            outputs_UC[units_U] = found_UC[: len(units_U)]
    return np.empty((0, 1), np.float32) if outputs_UC is None else outputs_UC


def _way(
    forward: Forward, table: TokenTable, packing: Packing | None
) -> AbstractContextManager[tuple[Forward, Packing]]:
    if packing is None and isinstance(forward, QuickForward):
        return forward.quickest(table)
    return nullcontext((forward, packing or "padded"))


def _tensors(targets: Targets, outputs: Any) -> Targets:
    """The targets where the outputs are."""
    device = getattr(outputs, "device", "cpu")
    return targets.map(lambda values: torch.from_numpy(np.array(values)).to(device))


def _on_host(outputs: Any) -> np.ndarray:
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    return wide.cpu().numpy()

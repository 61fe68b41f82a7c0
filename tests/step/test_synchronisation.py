"""One update waits for the device once, however many micro-batches it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bigbatch.graph.lazy import read_tokens_only
from bigbatch.model.anatomy import anatomy
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.tasks.classify import Classify
from tests.executors import one_by_one
from tests.models import FAMILIES, PACKABLE, tiny, tiny_batch

READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "_unique2")
PIECES = ((5, 9, 3, 9, 7), (6, 6, 6), (2, 11), (1, 1, 1))
INTERFACE = tuple(family for family in FAMILIES if family != "mpnet")
"""MPNet makes its mask by a function of its own, which looks at it: nobody can keep it from that."""


class Waits(TorchDispatchMode):
    """Operations that a GPU's queue would have to run empty for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        indexes = args[1] if name == "index" else ()
        to_host = name in ("_to_copy", "copy_") and any(
            isinstance(each, torch.Tensor) and each.device.type != "cpu" for each in args
        )
        if name in READS or any(each is not None and each.dtype == torch.bool for each in indexes) or to_host:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def executor_for(family: str, packing: str, device: str = "cpu", *, lazy: bool = False) -> tuple[Any, Any]:
    model = tiny(family, dropout=0.1).to(device).train()
    parts = anatomy(model)
    if packing == "packed":
        forward: Any = packed_runner(model, parts)
        if lazy:
            read_tokens_only(forward, parts)
    else:
        forward = padded_runner(model, 0)
    executor = one_by_one(forward=forward, task=Classify(), device=torch.device(device), seed=0)
    batches = [tiny_batch(lengths, pools=parts.pools, packing=packing) for lengths in PIECES]  # type: ignore[arg-type]
    return executor, batches


CASES = [
    *((family, "padded", False) for family in INTERFACE),
    *((family, "packed", lazy) for family in PACKABLE for lazy in (False, True)),
]


@pytest.mark.parametrize(("family", "packing", "lazy"), CASES)
def test_the_loop_over_micro_batches_waits_once(family: str, packing: str, lazy: bool) -> None:
    executor, batches = executor_for(family, packing, lazy=lazy)
    with Waits() as waits:
        executor.accumulate(1, batches, {"cross_entropy": 13.0})
    assert waits.seen == ["_local_scalar_dense"], "the sum of the losses, at the end"


def test_the_count_sees_what_waits() -> None:
    executor, batches = executor_for("mpnet", "padded")
    with Waits() as waits:
        executor.accumulate(1, batches, {"cross_entropy": 13.0})
    assert len(waits.seen) == 1 + len(PIECES)
    with Waits() as waits:
        values = torch.arange(4)
        values[values > 1].tolist()
        bool(values.any())
        torch.nonzero(values)
    assert waits.seen == ["index", "_local_scalar_dense", "nonzero"]


WAITS_BY_ITSELF = ("deberta-v3",)
"""Transformers' code for it sends a number from the host to the device in each forward."""


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("family", "packing", "lazy"), [case for case in CASES if case[0] not in WAITS_BY_ITSELF]
)
def test_cuda_is_never_waited_for_inside_the_loop(family: str, packing: str, lazy: bool) -> None:
    executor, batches = executor_for(family, packing, "cuda", lazy=lazy)
    executor.accumulate(1, batches, {"cross_entropy": 13.0})  # libraries load on first use, and may wait
    before = torch.cuda.get_sync_debug_mode()

    def watched():
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from batches
        finally:
            torch.cuda.set_sync_debug_mode(before)

    try:
        executor.accumulate(2, watched(), {"cross_entropy": 13.0})
    finally:
        torch.cuda.set_sync_debug_mode(before)

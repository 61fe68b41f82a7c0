"""What a micro-batch that failed has computed is gone before the update is done again, without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from torch import Tensor

from tests.jobs import HELD_OUT, ROWS, events, start
from tests.models import tiny

MESSAGE = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


class Watched:
    """Keeps weak references to the activations of the first block, and runs out of memory once, at some point."""

    def __init__(self, module: Any, point: str) -> None:
        self.point, self.armed, self.failed = point, False, False
        self.activations: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []
        """How many of the failed pass live when the next one begins."""
        blocks = [part for name, part in module.named_modules() if name.endswith(("layer.0", "layer.1"))]
        module.register_forward_pre_hook(self._begin)
        blocks[0].register_forward_hook(self._keep)
        blocks[1].register_forward_hook(self._fail)

    def _begin(self, *_: Any) -> None:
        if self.failed and not self.alive:
            self.alive.append(sum(each() is not None for each in self.activations))

    def _keep(self, module: Any, args: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if self.armed and not self.failed:
            self.activations.append(weakref.ref(found))

    def _fail(self, module: Any, args: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if not self.armed or self.failed:
            return
        if self.point == "backward" and found.requires_grad:
            found.register_hook(self._raise)
        elif self.point == "forward":
            self._raise()

    def _raise(self, *_: Any) -> None:
        if not self.failed:
            self.failed = True
            raise RuntimeError(MESSAGE)


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("point", ["forward", "backward"])
@pytest.mark.parametrize("sync", [{}, {"sync.replicas": 2, "sync.period": 2}], ids=["one model", "replicas"])
def test_a_failed_micro_batch_is_freed_before_the_replay(tmp_path, no_collector, point, sync):
    module = tiny("bert", dropout=0.1)
    watched = Watched(module, point)
    with start(tmp_path / "r", module, set={"plan.micro_tokens": 128, **sync}) as run:
        for record in run:
            watched.armed = (record.kind == "update" and record.step == 1) or watched.armed
    assert len(events(tmp_path / "r", "out_of_memory")) == 1
    assert watched.activations and watched.alive == [0]


def test_an_evaluation_that_failed_is_freed_too(tmp_path, no_collector):
    module = tiny("bert")
    watched = Watched(module, "forward")
    with start(tmp_path / "r", module, rows=ROWS, validation=HELD_OUT) as run:
        for record in run:
            watched.armed = (record.kind == "update" and record.step == 4) or watched.armed
    (event,) = events(tmp_path / "r", "out_of_memory")
    assert "evaluation of validation" in event["did"]
    assert watched.activations and watched.alive == [0]


def test_what_the_user_raised_keeps_its_lines_and_no_tensors(tmp_path, no_collector):
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        if watched.armed:
            raise ValueError("of the user")
        return logits.square().sum(1)

    module = tiny("bert")
    watched = Watched(module, "never")
    with (
        pytest.raises(ValueError, match="of the user") as found,
        start(tmp_path / "r", module, loss=loss) as run,
    ):
        for record in run:
            watched.armed = record.kind == "update"
    assert "in loss" in str(found.getrepr(style="native")) and found.traceback[-1].name == "loss"
    assert watched.activations and all(each() is None for each in watched.activations)

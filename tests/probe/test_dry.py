"""Memory that would be alive, against torch's own account of memory that is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bigbatch.probe.dry import Shapes


class Twins(nn.Module):
    """Two layers with one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(64, 64), nn.Linear(64, 64)
        self.other.weight = self.one.weight
        self.register_buffer("scale", torch.full((64,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(torch.relu(self.one(x))) * self.scale


def test_memory_is_counted_once_and_until_it_goes():
    shapes, module = Shapes(), Twins()
    shapes.empty(module)
    assert module.one.weight is module.other.weight
    model = 4 * (64 * 64 + 64 + 64 + 64)
    assert shapes.bytes_now == model
    with shapes.alone():
        held = torch.empty(1000, 1000, 1000, 1000)  # 4 TB, had it memory
        view = held[0]
        assert shapes.bytes_now == model + 4 * 10**12
        del held
        assert shapes.bytes_now == model + 4 * 10**12  # the view holds it
        del view
        assert shapes.bytes_now == model
        freed = torch.empty(256)
        freed.untyped_storage().resize_(0)
        assert shapes.bytes_now == model
    assert shapes.peak_bytes == model + 4 * 10**12


def test_what_is_known_is_computed_and_the_rest_reads_as_one():
    shapes, module = Shapes(), Twins()
    shapes.empty(module)
    with shapes.alone():
        known = torch.tensor([2.0, 3.0])
        assert (known * 2).tolist() == [4.0, 6.0]
        loss = module(torch.randn(8, 64)).sum().detach()
        assert float(loss) == 1.0 and bool(loss.isfinite())
        assert (known.sum() + loss).item() == 1.0
    assert torch.UntypedStorage.resize_.__name__ == "resize_"


def test_the_peak_is_that_of_real_tensors():
    """Against torch's own log of allocations, of the same training without anybody watching."""

    def train(module: nn.Module) -> None:
        x = torch.randn(200, 64)
        optimizer = torch.optim.AdamW(module.parameters(), foreach=False)
        for _ in range(2):
            module(x).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    shapes, module = Shapes(), Twins()
    shapes.empty(module)
    before = shapes.bytes_now
    with shapes.alone():
        shapes.forget_peak()
        train(module)
    real = Twins()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        train(real)
    now = peak = 0
    for event in sorted(memory_events(log), key=lambda one: one.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert shapes.peak_bytes - before == pytest.approx(peak, rel=0.05)


def memory_events(log: profile) -> list:
    events = log.profiler.kineto_results.events()
    found = [event for event in events if event.name() == "[memory]"]
    assert len(found) > 50
    return found

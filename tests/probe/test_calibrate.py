"""Calibration leaves nothing behind, and counts what it says it counts."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bigbatch.probe import calibrate as calibration
from bigbatch.probe.bench import saved_bytes, spread
from bigbatch.probe.calibrate import calibrate, smallest_of_the_fastest, try_sizes
from bigbatch.samples import MicroBatch, Targets
from tests.models import micro_batch_of


class Small(nn.Module):
    """Embedding, dropout, a norm with running statistics, a frozen layer, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.statistics = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, ids_T: Tensor, reads_U: Tensor) -> Tensor:
        hidden_TD = self.dropout(self.statistics(self.frozen(self.words(ids_T))))
        return self.head(hidden_TD[reads_U])


@dataclass
class Path:
    """The forward of `Small`, counting what it was given."""

    module: Small
    sizes: list[int] = field(default_factory=list)
    fails_above: int = 10**9

    def __call__(self, micro_batch: MicroBatch) -> Tensor:
        self.sizes.append(micro_batch.capacity_tokens)
        if micro_batch.capacity_tokens > self.fails_above:
            raise torch.OutOfMemoryError("no room")
        return self.module(torch.from_numpy(micro_batch.ids_T), torch.from_numpy(micro_batch.reads_U))


class Task:
    """Cross-entropy per unit."""

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        losses = nn.functional.cross_entropy(outputs, targets.values, reduction="none")
        return {"cross_entropy": losses * targets.weights}


def micro_batch(index: int, size: int) -> MicroBatch:
    samples = size // 4
    values = np.arange(samples) % 3
    values.setflags(write=False)
    return micro_batch_of(
        index=index, ids_T=np.arange(4 * samples) % 50, lengths_B=np.full(samples, 4),
        reads_U=np.arange(samples) * 4, unit_sample_U=np.arange(samples), capacity_tokens=size, values=values,
    )  # fmt: skip


def micro_batches(size: int) -> list[MicroBatch]:
    return [micro_batch(index, size) for index in range(7)]


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad])


def run(path: Path, **options: Any) -> Any:
    options = {"candidates": (16, 32, 64), **options}
    return calibrate(path, Task(), path.module, micro_batches, adamw, **options)  # type: ignore[arg-type]


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training: bool) -> None:
    torch.manual_seed(0)
    module = Small().train(training)
    module.dropout.eval()
    module.head.bias.grad = torch.full((3,), 7.0)
    kept_gradient = module.head.bias.grad
    before, modes = snapshot(module), [part.training for part in module.modules()]
    generator = torch.random.get_rng_state()
    run(Path(module))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert module.head.bias.grad is kept_gradient and kept_gradient.tolist() == [7.0, 7.0, 7.0]
    assert all(p.grad is None for name, p in module.named_parameters() if name != "head.bias")


def test_nothing_is_left_behind_after_a_failure_either() -> None:
    module = Small().eval()
    before, generator = snapshot(module), torch.random.get_rng_state()
    with pytest.raises(torch.OutOfMemoryError):
        run(Path(module, fails_above=8))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(part.training for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_facts_are_complete() -> None:
    found = run(Path(Small()))
    assert found.micro_tokens in found.tried and set(found.tried) <= {16, 32, 64}
    assert found.tried[found.micro_tokens] == min(found.tried.values())
    assert found.seconds_per_token > 0
    assert found.seconds_per_update > 0 and found.seconds_per_token_forward > 0
    assert found.activation_bytes_per_token > 0
    activations = found.activation_bytes_per_token * found.micro_tokens
    assert 0 < found.resting_bytes <= found.peak_bytes + 1.2 * activations + 1


def test_what_micro_batches_leave_in_the_heap_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    resting = []
    for factor in (0.0, 1e6):
        monkeypatch.setattr(calibration, "_LEFT_IN_THE_HEAP", factor)
        found = run(Path(Small()), candidates=(16,))
        resting.append(found.resting_bytes)
    # What the process itself rests on moves by some MiB between two measurements.
    assert resting[1] - resting[0] == pytest.approx(1e6 * found.activation_bytes_per_token * 16, rel=0.2)


def test_one_size_is_measured_in_little_more_than_one_pass() -> None:
    path = Path(Small())
    what = (path, Task(), path.module, micro_batches, adamw)
    found = calibration.calibrate_one(*what, micro_tokens=16, evaluation_micro_tokens=32)  # type: ignore[arg-type]
    assert path.sizes == [16, 16]  # bytes, then seconds
    assert (found.micro_tokens, found.evaluation_micro_tokens, set(found.tried)) == (16, 32, {16})
    assert 0 < found.seconds_per_token_forward < found.seconds_per_token
    assert found.activation_bytes_per_token == run(Path(Small()), candidates=(16,)).activation_bytes_per_token
    path.sizes.clear()
    calibration.calibrate_one(*what, micro_tokens=16, evaluation_micro_tokens=32, more=lambda *_: True)  # type: ignore[arg-type]
    assert path.sizes == [16] * 4


def test_each_size_that_is_tried_is_said() -> None:
    said: list[str] = []
    run(Path(Small()), candidates=(16,), say=said.append)
    assert said == ["calibrating: 16 tokens at once"]


def test_the_users_size_is_measured_alone() -> None:
    path = Path(Small())
    assert run(path, candidates=(24,)).micro_tokens == 24
    assert set(path.sizes) == {24}


def test_a_size_that_does_not_fit_is_not_tried() -> None:
    path = Path(Small())
    found = run(path, memory_bytes=1)
    assert found.micro_tokens == 16 and set(path.sizes) == {16}


def test_running_out_of_memory_keeps_the_smaller_sizes() -> None:
    found = run(Path(Small(), fails_above=20), budget_seconds=1e9)
    assert set(found.tried) == {16}


def test_dropout_is_on_while_training_is_timed_and_off_for_evaluation() -> None:
    module = Small()
    modes: list[tuple[bool, bool]] = []
    module.dropout.register_forward_hook(
        lambda part, *_: modes.append((part.training, torch.is_grad_enabled()))
    )
    run(Path(module), candidates=(16,))
    assert set(modes) == {(True, True), (False, False)}


@dataclass
class Clock:
    """Time that passes only by measuring."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def tried_with(
    per_token: dict[int, float], budget: float = 1e9, sizes: Sequence[int] = (1, 2, 4, 8)
) -> list[int]:
    clock = Clock()

    def measure(size: int) -> float:
        clock.now += size * per_token[size]
        return per_token[size]

    return list(try_sizes(measure, sizes, budget_seconds=budget, clock=clock))


def test_sizes_are_tried_while_they_get_faster() -> None:
    assert tried_with({1: 4.0, 2: 3.0, 4: 2.0, 8: 1.0}) == [1, 2, 4, 8]
    assert tried_with({1: 4.0, 2: 3.0, 4: 3.5, 8: 1.0}) == [1, 2, 4]
    assert tried_with({1: 3.0, 2: 3.1, 4: 2.0, 8: 2.9}) == [1, 2, 4, 8]


def test_sizes_are_tried_while_the_budget_lasts() -> None:
    speeds = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}
    assert tried_with(speeds, budget=0.1) == [1]
    assert tried_with(speeds, budget=3.0) == [1, 2]
    assert tried_with(speeds, budget=7.0) == [1, 2, 4]


def test_saved_bytes_by_hand() -> None:
    """x @ W saves x (the input of W's gradient); relu saves its output; W itself is no activation."""
    layer = nn.Linear(10, 20, bias=False)
    x = torch.ones(6, 10)
    relu_output, sample = 4 * 6 * 20, 4 * 6 * 10
    found = saved_bytes(lambda: layer(x).relu().sum(), layer)
    assert found == sample + relu_output + 2 * relu_output


def test_a_tensor_saved_twice_counts_once() -> None:
    x = torch.ones(100, requires_grad=True)
    found = saved_bytes(lambda: ((y := x + 1) * y).sum(), nn.Identity())
    assert found == 400 + 2 * 400


def test_the_graph_is_gone_afterwards() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def forward() -> Tensor:
        output = torch.ones(4, requires_grad=True).exp()  # exp keeps its own output
        kept.append(weakref.ref(output))
        return output.sum()

    saved_bytes(forward, nn.Identity())
    assert kept[0]() is None


def test_activation_bytes_grow_with_width() -> None:
    def bytes_of(width: int) -> int:
        network = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 8))
        return saved_bytes(lambda: network(torch.ones(32, 8)).sum(), network)

    assert 1.9 < bytes_of(512) / bytes_of(256) < 2.1


def test_the_optimiser_only_sees_throw_away_parameters() -> None:
    module = Small()
    seen: list[tuple[torch.Size, int]] = []

    def factory(given: nn.Module) -> torch.optim.Optimizer:
        seen.extend((parameter.shape, parameter.data_ptr()) for parameter in given.parameters())
        return adamw(given)

    calibrate(Path(module), Task(), module, micro_batches, factory, candidates=(16,))  # type: ignore[arg-type]
    shapes = [parameter.shape for parameter in module.parameters() if parameter.requires_grad]
    assert [shape for shape, _ in seen] == shapes
    assert not {place for _, place in seen} & {parameter.data_ptr() for parameter in module.parameters()}


def test_large_models_are_timed_on_a_part() -> None:
    sizes = [nn.Parameter(torch.zeros(count)) for count in (6, 5, 3)]
    assert [p.numel() for p in calibration._some(sizes, 9)] == [6, 3]
    assert [p.numel() for p in calibration._some(sizes, 2)] == [3]


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [1, 4, 7])])
def test_timed_micro_batches_are_spread(count: int, chosen: list[int]) -> None:
    batches = [micro_batch(index, 16) for index in range(count)]
    assert [one.index for one in spread(batches)] == chosen


def test_of_sizes_about_as_fast_the_smallest_is_taken():
    assert smallest_of_the_fastest({512: 1.10, 1024: 1.02, 2048: 1.0, 4096: 1.01}) == 1024
    assert smallest_of_the_fastest({512: 2.0, 1024: 1.0}) == 1024
    assert smallest_of_the_fastest({4096: 3.0}) == 4096

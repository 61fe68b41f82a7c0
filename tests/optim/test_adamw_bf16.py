"""Stochastic rounding: its mean is the number, its bits are a pure function, and small updates are not lost."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bigbatch.optim.adamw_bf16 import AdamWBf16, random_bits, rounding_seed, stochastic_bf16

UPDATES = 10_000


def rounded_often(value: float, times: int = 20_000) -> torch.Tensor:
    values = torch.full((times,), value)
    return stochastic_bf16(values, random_bits(values, 7)).double()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_of_many_roundings_is_the_number(share: float, sign: int) -> None:
    low, high = 1.5, 1.5 + 2.0**-7  # neighbours in bf16
    found = rounded_often(sign * (low + share * (high - low)))
    assert set(found.abs().tolist()) <= {low, high}
    assert (found.abs() == high).double().mean().item() == pytest.approx(share, abs=4 * 0.5 / 20_000**0.5)


def test_what_bf16_can_say_is_left_alone_and_what_is_not_finite_too() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-130, float("inf"), -float("inf"), float("nan")])
    every = stochastic_bf16(values, torch.full(values.shape, 0xFFFF))
    torch.testing.assert_close(every.float(), values, rtol=0, atol=0, equal_nan=True)
    # A NaN whose dropped bits are all ones would carry into the sign.
    strange = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    assert stochastic_bf16(strange, torch.tensor([0xFFFF])).isnan().all()


def test_the_bits_are_a_function_of_seed_update_and_name() -> None:
    seeds = {rounding_seed(s, u, n) for s in (0, 1) for u in (1, 2) for n in ("a", "b")}
    assert len(seeds) == 8
    assert rounding_seed(0, 1, "bert.pooler.dense.weight") == 7883450441095272722
    like = torch.zeros(3, 5)
    torch.manual_seed(1)
    first = random_bits(like, 5)
    torch.manual_seed(2)
    assert torch.equal(random_bits(like, 5), first) and not torch.equal(random_bits(like, 6), first)


def trained(steps: int, *, seed: int = 0, names: list[str] | None = None, order: int = 1) -> torch.Tensor:
    torch.manual_seed(steps)  # what ran before must not matter
    parameters = [nn.Parameter(torch.linspace(0.5, 2, 40)), nn.Parameter(torch.linspace(1, 3, 40))]
    group = {"params": parameters[::order], "names": (names or ["a", "b"])[::order]}
    optimizer = AdamWBf16([group], lr=1e-4, seed=seed)
    for _ in range(20):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return torch.stack([parameter.detach() for parameter in parameters])


def test_rounding_does_not_depend_on_the_generator_or_on_the_order_of_parameters() -> None:
    first = trained(1)
    assert torch.equal(first, trained(2)) and torch.equal(first, trained(3, order=-1))
    assert not torch.equal(first, trained(1, seed=1)) and not torch.equal(first, trained(1, names=["a", "c"]))


def test_weights_and_averages_are_bf16_numbers() -> None:
    found = trained(1)
    assert torch.equal(found, found.bfloat16().float())
    network = nn.Linear(4, 4)
    optimizer = AdamWBf16(network.parameters(), lr=1e-3)
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    for state in optimizer.state.values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16


def drift(how: str) -> float:
    """Mean way of 256 weights of 1.0 under 10,000 updates of -1e-6 each: 0.01 in all."""
    weight = nn.Parameter(torch.ones(256))
    if how == "stochastic":
        optimizer: torch.optim.Optimizer = AdamWBf16([weight], lr=1e-6, weight_decay=0.0, eps=1e-12)
    elif how == "master":
        optimizer = torch.optim.AdamW([weight], lr=1e-6, weight_decay=0.0, eps=1e-12)
    else:
        weight = nn.Parameter(torch.ones(256, dtype=torch.bfloat16))
        optimizer = torch.optim.AdamW([weight], lr=1e-6, weight_decay=0.0, eps=1e-12)
    weight.grad = torch.ones_like(weight)
    for _ in range(UPDATES):
        optimizer.step()
    return 1 - weight.detach().double().mean().item()


def test_ten_thousand_small_updates_are_lost_by_plain_bf16_and_kept_by_the_others() -> None:
    assert drift("plain") == 0.0
    assert drift("master") == pytest.approx(0.01, rel=0.02)
    # 256 weights that jump by 1/256 with probability 1/3906 an update: 0.01 ± 0.0004.
    assert drift("stochastic") == pytest.approx(0.01, rel=0.15)


def test_it_follows_adamw() -> None:
    """A regression that both fit: the same loss as fp32 AdamW's within the noise of bf16."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    y = x @ torch.randn(8, 1, generator=generator)
    start = nn.Linear(8, 1)
    losses = {}
    for name, kind in (("fp32", torch.optim.AdamW), ("bf16", AdamWBf16)):
        network = copy.deepcopy(start)
        optimizer = kind(network.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (network(x) - y).square().mean()
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert losses["fp32"] < 0.1 * y.square().mean().item()
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.2, abs=2e-3)

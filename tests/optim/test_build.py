"""Optimisers from the recipe."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bigbatch.errors import ModelError, RecipeError
from bigbatch.optim.build import build_optimizer, set_lr
from bigbatch.optim.lamb import Lamb
from bigbatch.optim.lars import Lars
from bigbatch.optim.lion import Lion
from bigbatch.optim.muon import Muon
from bigbatch.recipe.optimizers import state_multiple
from bigbatch.rules.batch_size import Effective

EFFECTIVE = Effective(lr=0.01, betas=(0.8, 0.98), eps=1e-7)


def settings(name: str, **changes: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "name": name,
        "weight_decay": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "state": "fp32",
        "layer_decay": 1.0,
        "args": {},
    }
    return SimpleNamespace(**(values | changes))


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).to(dtype)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("lamb", Lamb),
        ("lars", Lars),
        ("lion", Lion),
        ("muon", Muon),
    ],
)
def test_the_named_optimiser_with_the_effective_numbers(name: str, kind: type) -> None:
    optimizer = build_optimizer(model(), settings(name), EFFECTIVE)
    assert isinstance(optimizer, kind)
    decaying, rest = optimizer.param_groups
    assert decaying["lr"] == 0.01 and decaying["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert decaying["names"] == ["0.weight", "2.weight"]
    if name in ("sgd", "lars", "muon"):
        assert (decaying["momentum"], decaying["nesterov"]) == (0.9, True)
    if name == "lion":
        assert decaying["betas"] == (0.8, 0.98)
    elif name not in ("sgd", "lars"):
        assert (decaying["betas"], decaying["eps"]) == ((0.8, 0.98), 1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_fused_adamw_is_adamw(dtype: torch.dtype, tolerance: float) -> None:
    """Decoupled decay, debiased averages, written out."""
    network = model(dtype)
    optimizer = build_optimizer(network, settings("adamw"), EFFECTIVE)
    assert optimizer.param_groups[0]["fused"] is True
    weight = network[0].weight  # type: ignore[index]
    wanted = weight.detach().clone().double()
    mean, square = torch.zeros_like(wanted), torch.zeros_like(wanted)
    for t in range(1, 6):
        gradient = torch.full_like(weight, 0.1 * t)
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 0.1 * t)
        optimizer.step()
        g = gradient.double()
        mean, square = 0.8 * mean + 0.2 * g, 0.98 * square + 0.02 * g * g
        wanted *= 1 - 0.01 * 0.1
        wanted -= 0.01 * (mean / (1 - 0.8**t)) / ((square / (1 - 0.98**t)).sqrt() + 1e-7)
    torch.testing.assert_close(weight.detach().double(), wanted, rtol=tolerance, atol=tolerance)


def test_lamb_asks_the_world_for_norms() -> None:
    asked = []

    class World:
        def sum_of_squares(self, tensors: Any, of: Any = None) -> torch.Tensor:
            asked.append(len(tensors))
            assert len(of) == len(tensors)
            return torch.stack([tensor.square().sum() for tensor in tensors])

    network = model()
    optimizer = build_optimizer(network, settings("lamb"), EFFECTIVE, World())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert asked == [4]


def test_options_of_the_recipe_reach_the_optimiser() -> None:
    optimizer = build_optimizer(model(), settings("adamw", args={"amsgrad": True}), EFFECTIVE)
    assert optimizer.param_groups[0]["amsgrad"] is True


def test_wrong_options_are_the_recipes_fault() -> None:
    with pytest.raises(RecipeError, match=r"optimizer\.args: adamw does not take these options.*momentun"):
        build_optimizer(model(), settings("adamw", args={"momentun": 1}), EFFECTIVE)
    with pytest.raises(RecipeError, match=r"optimizer\.args.*[Nn]esterov"):
        build_optimizer(model(), settings("sgd", momentum=0.0), EFFECTIVE)


def test_own_optimiser_gets_the_groups() -> None:
    def mine(groups: list[dict[str, Any]], lr: float, rho: float) -> torch.optim.Optimizer:
        return torch.optim.Adadelta(groups, lr=lr, rho=rho)

    optimizer = build_optimizer(model(), settings("mine.py:mine", args={"rho": 0.5}), EFFECTIVE, custom=mine)
    assert optimizer.param_groups[1]["rho"] == 0.5 and optimizer.param_groups[1]["names"][0] == "0.bias"


def test_own_optimiser_must_be_one() -> None:
    with pytest.raises(RecipeError, match=r"returned dict; expected a torch\.optim\.Optimizer"):
        build_optimizer(model(), settings("mine.py:mine"), EFFECTIVE, custom=lambda groups, lr: {})  # type: ignore[arg-type,return-value]


def test_unknown_name() -> None:
    with pytest.raises(RecipeError, match="did you mean adamw"):
        build_optimizer(model(), settings("adam"), EFFECTIVE)


def test_nothing_to_train() -> None:
    with pytest.raises(ModelError, match="frozen"):
        build_optimizer(model().requires_grad_(False), settings("adamw"), EFFECTIVE)


def test_set_lr_keeps_the_proportions() -> None:
    optimizer = build_optimizer(model(), settings("adamw"), EFFECTIVE)
    optimizer.param_groups[1]["lr_scale"] = 0.5
    set_lr(optimizer, 0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.2]


def test_state_multiple_counts_what_is_there() -> None:
    for name, state in (
        ("adamw", "fp32"),
        ("adamw", "bf16_sr"),
        *((name, "fp32") for name in ("lamb", "sgd", "lars", "lion")),
    ):
        network = model()
        optimizer = build_optimizer(network, settings(name, state=state), EFFECTIVE)
        network(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        held = sum(
            t.nbytes / 4
            for state in optimizer.state.values()
            for t in state.values()
            if isinstance(t, torch.Tensor) and t.ndim
        )
        assert held / sum(p.numel() for p in network.parameters()) == state_multiple(name, state=state)
    assert state_multiple("sgd", momentum=0.0) == state_multiple("lars", momentum=0.0) == 0.0


def test_muons_other_half_may_have_a_rate_of_its_own() -> None:
    optimizer = build_optimizer(
        model(), settings("muon", args={"adamw_lr_ratio": 0.1, "scale": "keller"}), EFFECTIVE
    )
    set_lr(optimizer, 0.4)
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates["0.weight"] == 0.4 and rates["0.bias"] == pytest.approx(0.04)
    with pytest.raises(RecipeError, match=r"optimizer\.args: muon .*adamw_lr_ratio 0; expected"):
        build_optimizer(model(), settings("muon", args={"adamw_lr_ratio": 0}), EFFECTIVE)
    with pytest.raises(RecipeError, match=r"optimizer\.args: muon .*newton_schulz 'fp8'"):
        build_optimizer(model(), settings("muon", args={"newton_schulz": "fp8"}), EFFECTIVE)

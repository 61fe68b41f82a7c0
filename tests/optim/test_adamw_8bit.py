"""torchao's 8-bit AdamW: near fp32's, quarter of its state, and the same bits after a checkpoint."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from torch import nn

from bigbatch.errors import RecipeError
from bigbatch.optim.adamw_8bit import adamw_8bit
from bigbatch.optim.build import set_lr
from bigbatch.optim.groups import decay_groups
from bigbatch.optim.state import load_optimizer_state, optimizer_state
from bigbatch.recipe.optimizers import state_multiple

# torchao's own imports warn (deprecated parts of torch.jit).
pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.LayerNorm(64))


def build(module: nn.Module) -> torch.optim.Optimizer:
    return adamw_8bit(decay_groups(module, 0.01), 1e-3, betas=(0.9, 0.999), eps=1e-8)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(16, 64, generator=torch.Generator().manual_seed(step))
        (module(x) - x.flip(1)).square().mean().backward()
        set_lr(optimizer, 1e-3 / (1 + step))
        optimizer.step()


def test_without_torchao_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError("No module named 'torchao'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RecipeError, match=r"optimizer\.state: 8bit needs torchao .*bigbatch\[torchao\]"):
        build(network())


def test_going_on_gives_the_same_bits() -> None:
    pytest.importorskip("torchao", reason="the optional extra [torchao]")
    module = network()
    optimizer = build(module)
    train(module, optimizer, range(3))
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in optimizer_state(optimizer).items()}
    assert state["exp_avg.codes/0.weight"].dtype == torch.uint8 and "exp_avg_sq.scale/0.weight" in state
    assert state["exp_avg/3.weight"].dtype == torch.float32, "small tensors stay fp32"
    train(module, optimizer, range(3, 6))
    resumed = network()
    resumed.load_state_dict(weights)
    fresh = build(resumed)
    load_optimizer_state(fresh, state)
    train(resumed, fresh, range(3, 6))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    left, right = optimizer_state(optimizer), optimizer_state(fresh)
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_it_follows_adamw_with_a_quarter_of_the_state() -> None:
    pytest.importorskip("torchao", reason="the optional extra [torchao]")
    module, other = network(), network()
    optimizer = build(module)
    train(module, optimizer, range(10))
    train(other, torch.optim.AdamW(decay_groups(other, 0.01), lr=1e-3), range(10))
    start = network().state_dict()
    way = torch.cat([(tensor - start[name]).flatten() for name, tensor in module.state_dict().items()])
    wanted = torch.cat([(tensor - start[name]).flatten() for name, tensor in other.state_dict().items()])
    assert ((way - wanted).norm() / wanted.norm()).item() < 0.15
    big = {name: tensor for name, tensor in optimizer_state(optimizer).items() if name.endswith("0.weight")}
    held = sum(tensor.nbytes for tensor in big.values() if tensor.ndim)
    assert held / 4 / (64 * 128) == pytest.approx(state_multiple("adamw", state="8bit"), rel=1e-9)

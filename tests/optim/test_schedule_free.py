"""Schedule-free AdamW: changing between its weights loses no bit, and checkpoints hold all of it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bigbatch.errors import RecipeError
from bigbatch.optim.build import build_optimizer
from bigbatch.optim.state import load_optimizer_state, optimizer_state
from bigbatch.recipe.optimizers import state_multiple
from bigbatch.rules.batch_size import Effective

BETA = 0.9


def build(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    settings = SimpleNamespace(
        name="schedule_free",
        weight_decay=0.1,
        momentum=0.9,
        nesterov=False,
        state="fp32",
        layer_decay=1.0,
        args={},
    )
    return network, build_optimizer(network, settings, Effective(lr=0.01, betas=(BETA, 0.99), eps=1e-8))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range, look: bool = False) -> None:
    for step in steps:
        optimizer.train()  # type: ignore[attr-defined]
        optimizer.zero_grad()
        network(torch.full((2, 4), 0.1 * step + 0.1)).square().sum().backward()
        optimizer.step()
        if look:
            optimizer.eval()  # type: ignore[attr-defined]


def values(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_without_the_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(RecipeError, match=r"optimizer\.name: .*pip install 'bigbatch\[schedulefree\]'"):
        build()


def test_looking_at_the_average_changes_no_bit() -> None:
    pytest.importorskip("schedulefree", reason="the optional extra [schedulefree]")
    (plain, first), (looked_at, second) = build(), build()
    train(plain, first, range(6))
    train(looked_at, second, range(6), look=True)
    second.train()  # type: ignore[attr-defined]
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in values(looked_at).items())
    held = sum(t.numel() for state in first.state.values() for t in state.values())
    assert held / sum(p.numel() for p in plain.parameters()) == 2
    first.eval()  # type: ignore[attr-defined]
    held = sum(t.numel() for state in first.state.values() for t in state.values())
    assert held / sum(p.numel() for p in plain.parameters()) == state_multiple("schedule_free")


def test_the_model_holds_the_average_for_evaluation() -> None:
    """x by hand: the mean of z, weighted alike while the rate is constant."""
    pytest.importorskip("schedulefree", reason="the optional extra [schedulefree]")
    network, optimizer = build()
    weight = network[0].weight  # type: ignore[index]
    seen = []
    for step in range(5):
        train(network, optimizer, range(step, step + 1))
        seen.append(optimizer.state[weight]["z"].clone())
    optimizer.eval()  # type: ignore[attr-defined]
    torch.testing.assert_close(weight.detach(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)
    optimizer.eval()  # type: ignore[attr-defined]
    torch.testing.assert_close(weight.detach(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)


def test_going_on_gives_the_same_bits() -> None:
    """A checkpoint holds x as the model, and what is needed to go on from y."""
    pytest.importorskip("schedulefree", reason="the optional extra [schedulefree]")
    network, optimizer = build()
    train(network, optimizer, range(4))
    optimizer.eval()  # type: ignore[attr-defined]
    weights = values(network)
    state = {name: tensor.clone() for name, tensor in optimizer_state(optimizer).items()}
    assert {"z/0.weight", "y/0.weight", "exp_avg_sq/0.weight", "group:weight_sum/0.weight"} <= state.keys()
    train(network, optimizer, range(4, 8))
    resumed, fresh = build(seed=1)
    resumed.load_state_dict(weights)
    load_optimizer_state(fresh, state)
    train(resumed, fresh, range(4, 8))
    assert all(torch.equal(resumed.state_dict()[name], value) for name, value in values(network).items())
    left, right = optimizer_state(optimizer), optimizer_state(fresh)
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert fresh.param_groups[0]["k"] == 8 and isinstance(fresh.param_groups[0]["k"], int)

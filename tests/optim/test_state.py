"""Optimiser state there and back, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigbatch.errors import CheckpointError
from bigbatch.optim.build import build_optimizer
from bigbatch.optim.state import load_optimizer_state, optimizer_state
from bigbatch.rules.batch_size import Effective


def build(
    name: str, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).to(dtype)
    values = {
        "name": name,
        "weight_decay": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "state": "fp32",
        "layer_decay": 1.0,
        "args": {},
    }
    effective = Effective(lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    return network, build_optimizer(network, SimpleNamespace(**(values | options)), effective)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        ids = torch.tensor([step % 6, (step + 1) % 6])
        network(ids).square().sum().backward()
        optimizer.step()


def snapshot(
    network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return weights, {name: tensor.clone() for name, tensor in optimizer_state(optimizer).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("adamw", "fp32"),
        ("adamw", "bf16_sr"),
        ("sgd", "fp32"),
        ("lamb", "fp32"),
        ("lars", "fp32"),
        ("lion", "fp32"),
        ("muon", "fp32"),
    ],
)
def test_going_on_gives_the_same_bits(name: str, kept: str, dtype: torch.dtype) -> None:
    network, optimizer = build(name, dtype, state=kept)
    train(network, optimizer, range(5))
    weights, state = snapshot(network, optimizer)
    train(network, optimizer, range(5, 9))
    resumed, fresh = build(name, dtype, state=kept)
    resumed.load_state_dict(weights)
    load_optimizer_state(fresh, state)
    train(resumed, fresh, range(5, 9))
    for key, value in network.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    left, right = optimizer_state(optimizer), optimizer_state(fresh)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) and left[key].dtype == right[key].dtype for key in left)


def test_without_the_state_the_bits_differ() -> None:
    network, optimizer = build("adamw")
    train(network, optimizer, range(5))
    weights, _ = snapshot(network, optimizer)
    train(network, optimizer, range(5, 9))
    resumed, fresh = build("adamw")
    resumed.load_state_dict(weights)
    train(resumed, fresh, range(5, 9))
    assert not torch.equal(network.state_dict()["1.weight"], resumed.state_dict()["1.weight"])


def test_keys_are_state_and_parameter_name() -> None:
    network, optimizer = build("adamw")
    train(network, optimizer, range(1))
    found = optimizer_state(optimizer)
    assert {"step/1.weight", "exp_avg/0.weight", "exp_avg_sq/3.bias"} <= found.keys()
    betas = [name for name in found if name.startswith("group:beta")]
    assert len(betas) == 2 * len(optimizer.param_groups)
    assert len(found) == 3 * len(list(network.parameters())) + len(betas)
    assert found["step/1.weight"].item() == 1


def test_names_can_be_given() -> None:
    network, optimizer = build("adamw")
    train(network, optimizer, range(1))
    names = {parameter: f"model/{name}" for name, parameter in network.named_parameters()}
    state = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, names).items()}
    assert "exp_avg/model/0.weight" in state
    load_optimizer_state(optimizer, state, names)
    assert optimizer_state(optimizer, names).keys() == state.keys()


def test_a_fresh_optimiser_has_no_state() -> None:
    _, optimizer = build("sgd", momentum=0.0)
    assert optimizer_state(optimizer) == {}
    load_optimizer_state(optimizer, {})


def test_what_is_loaded_is_a_copy_and_learning_rates_stay() -> None:
    network, optimizer = build("adamw")
    train(network, optimizer, range(1))
    _, state = snapshot(network, optimizer)
    kept = state["exp_avg/1.weight"].clone()
    optimizer.param_groups[0]["lr"] = 0.5
    load_optimizer_state(optimizer, state)
    train(network, optimizer, range(1, 3))
    assert torch.equal(state["exp_avg/1.weight"], kept)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["names"][0] == "0.weight"


def test_python_numbers_of_other_optimisers_come_back_as_numbers() -> None:
    network, optimizer = build("sgd")
    parameter = next(network.parameters())
    optimizer.state[parameter] = {"count": 3, "rate": 0.1, "on": None}
    state = optimizer_state(optimizer)
    assert set(state) == {"number:count/0.weight", "number:rate/0.weight"}
    other_network, other = build("sgd")
    load_optimizer_state(other, state)
    assert other.state[next(other_network.parameters())] == {"count": 3, "rate": 0.1}


def test_other_things_in_the_state_are_refused() -> None:
    network, optimizer = build("adamw")
    optimizer.state[next(network.parameters())] = {"history": [1, 2]}
    with pytest.raises(CheckpointError, match=r"history of 0\.weight as list"):
        optimizer_state(optimizer)


def test_unknown_parameters_and_other_shapes_are_refused() -> None:
    _, optimizer = build("adamw")
    with pytest.raises(CheckpointError, match=r"exp_avg/head\.weight belongs to no"):
        load_optimizer_state(optimizer, {"exp_avg/head.weight": torch.zeros(2)})
    with pytest.raises(
        CheckpointError, match=r"exp_avg/1\.weight has shape \(4, 3\); this model's is \(4, 4\)"
    ):
        load_optimizer_state(optimizer, {"exp_avg/1.weight": torch.zeros(4, 3)})

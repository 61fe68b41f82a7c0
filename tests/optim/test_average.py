"""The exponential average beside an optimiser: the textbook's numbers, and evaluations that leave no trace."""

from __future__ import annotations

import copy

import pytest
import torch

from bigbatch.optim.average import averaged
from bigbatch.optim.state import load_optimizer_state, optimizer_state


def built(average: float | None = 0.9):
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.AdamW([{"params": [parameter], "names": ["w"]}], lr=0.1)
    return parameter, optimizer if average is None else averaged(optimizer, average)


def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, number: int) -> None:
    parameter.grad = torch.tensor([1.0 + number, 2.0 - number], dtype=torch.float64)
    optimizer.step()


def test_it_is_the_textbooks_average_and_weights_are_those_without_it():
    (plain, bare), (parameter, optimizer) = built(None), built(0.5)
    average = None
    for number in range(8):
        step(plain, bare, number)
        step(parameter, optimizer, number)
        assert torch.equal(plain, parameter)
        decay = min(0.5, (2 + number) / (11 + number))
        now = plain.detach().clone()
        average = now if average is None else decay * average + (1 - decay) * now
    optimizer.eval()
    torch.testing.assert_close(parameter.detach(), average, rtol=1e-14, atol=0)


def test_an_evaluation_leaves_no_trace():
    (one, first), (two, second) = built(), built()
    for number in range(6):
        step(one, first, number)
        step(two, second, number)
        second.eval()
        second.eval()
        if number:
            assert not torch.equal(one, two)
        if number % 2:
            second.train()
    second.train()
    assert torch.equal(one, two)
    assert all(torch.equal(first.state[one][key], second.state[two][key]) for key in first.state[one])


def test_a_resume_goes_on_bit_for_bit_also_from_the_middle_of_an_evaluation():
    parameter, optimizer = built()
    for number in range(3):
        step(parameter, optimizer, number)
    optimizer.eval()
    weights, state = parameter.detach().clone(), copy.deepcopy(optimizer_state(optimizer))
    again, resumed = built()
    with torch.no_grad():
        again.copy_(weights)
    load_optimizer_state(resumed, state)
    for number in range(3, 5):
        step(parameter, optimizer, number)
        step(again, resumed, number)
    assert torch.equal(parameter, again)
    optimizer.eval()
    resumed.eval()
    assert torch.equal(parameter, again)


@pytest.mark.parametrize("decay", [1.0, -0.1, True, "much"])
def test_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match="expected a decay from 0 to below 1"):
        built(decay)

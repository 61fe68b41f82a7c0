"""Which library multiplies: the one that is clearly faster and gives the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigbatch.probe import products
from bigbatch.probe.products import onednn_is_quicker


@pytest.fixture
def timed(monkeypatch):
    """Sets what each library takes: {product: seconds}."""

    def set_to(usual: float, other: float, found=torch.nn.functional.linear) -> None:
        monkeypatch.setattr(products, "has_onednn", lambda: True)
        monkeypatch.setattr(products, "onednn_linear", found)
        monkeypatch.setattr(
            products,
            "_seconds",
            lambda product, *_: usual if product is products.functional.linear else other,
        )

    return set_to


def a_linear(inputs, weight, bias=None):
    return torch.nn.functional.linear(inputs, weight, bias)


@pytest.mark.parametrize(("other", "expected"), [(0.4, True), (0.8, True), (0.9, False), (2.0, False)])
def test_only_what_is_clearly_faster_is_taken(timed, other, expected):
    timed(1.0, other, a_linear)
    assert onednn_is_quicker(nn.Linear(128, 128)) is expected


def test_other_numbers_are_not_taken(timed):
    timed(1.0, 0.1, lambda inputs, weight, bias=None: a_linear(inputs, weight) * 1.001)
    assert not onednn_is_quicker(nn.Linear(128, 128))


@pytest.mark.parametrize(
    "module",
    [nn.Linear(16, 16), nn.Linear(128, 128).double(), nn.LayerNorm(8)],
    ids=["small", "fp64", "none"],
)
def test_nothing_to_save(timed, module):
    timed(1.0, 0.1, a_linear)
    assert not onednn_is_quicker(module)


def test_the_random_numbers_of_a_run_are_not_used():
    state = torch.get_rng_state()
    onednn_is_quicker(nn.Linear(128, 128))
    fresh = torch.get_rng_state()
    nn.Linear(128, 128)
    assert not torch.equal(fresh, torch.get_rng_state())
    torch.set_rng_state(state)
    nn.Linear(128, 128)
    assert torch.equal(fresh, torch.get_rng_state())

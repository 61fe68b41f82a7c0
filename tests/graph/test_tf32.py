"""The switch of tf32: readable by both of torch's sets of names, and put back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bigbatch.graph.tf32 import tf32_products

GETTERS: dict[str, Callable[[], Any]] = {
    "precision": torch.get_float32_matmul_precision,
    "allow": lambda: torch.backends.cuda.matmul.allow_tf32,
    "allow convolutions": lambda: torch.backends.cudnn.allow_tf32,
    "cuda": lambda: torch.backends.cuda.matmul.fp32_precision,
    "cpu": lambda: torch.backends.mkldnn.matmul.fp32_precision,
    "convolutions": lambda: torch.backends.cudnn.conv.fp32_precision,
    "recurrent": lambda: torch.backends.cudnn.rnn.fp32_precision,
}


def now() -> dict[str, Any]:
    found = {}
    for name, get in GETTERS.items():
        try:
            found[name] = get()
        except RuntimeError:
            found[name] = "cannot be read"
    return found


def _old_high() -> None:
    torch.set_float32_matmul_precision("high")


def _no_convolutions() -> None:
    torch.backends.cudnn.allow_tf32 = False


def _new_names() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for products in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        products.fp32_precision = "none"


@pytest.mark.parametrize("user", [None, _old_high, _no_convolutions])
def test_both_sets_of_names_can_be_read_inside(user: Callable[[], None] | None) -> None:
    """torch's compiler reads the old ones."""
    if user is not None:
        user()
    before = now()
    assert "cannot be read" not in before.values()
    with tf32_products(True):
        inside = now()
        with tf32_products(True):
            assert now() == inside
        assert now() == inside
    assert inside["precision"] == "high" and inside["allow"] is inside["allow convolutions"] is True
    assert inside["cuda"] == inside["convolutions"] == "tf32"
    assert now() == before


def test_a_user_of_the_new_names_keeps_them() -> None:
    _new_names()
    before = now()
    with tf32_products(True):
        assert (now()["cuda"], now()["convolutions"]) == ("tf32", "tf32")
    assert now() == before


def test_nothing_is_touched_where_it_is_not_wanted() -> None:
    before = now()
    with tf32_products(False):
        assert now() == before

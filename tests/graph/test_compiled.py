"""Compiled blocks: the same numbers, one set of graphs for all equal blocks, no compilation for other lengths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigbatch.graph.compiled import MOST_RECOMPILATIONS, compilations, compile_parts
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.model.anatomy import anatomy
from bigbatch.model.forwards import PackedForward
from tests.models import tiny, tiny_batch

# torch hides this warning of its own while it traces, unless warnings are errors as in this session.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)

SIZES = ((5, 9, 3, 9, 7), (12, 12, 5), (4, 4, 4, 4), (20, 1, 6, 2), (31, 30), (7,))


def gradient(model: nn.Module, kind: str, lengths: tuple[int, ...], forward: PackedForward) -> torch.Tensor:
    model.zero_grad()
    forward(tiny_batch(lengths, pools=forward.anatomy.pools)).square().sum().backward()
    return torch.cat([item.grad.flatten() for item in model.parameters() if item.grad is not None])


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(("family", "reads_only"), [("bert", True), ("llama", False)])
def test_same_numbers_and_few_graphs(family: str, reads_only: bool) -> None:
    model = tiny(family, num_hidden_layers=4).double()
    parts = anatomy(model)
    forward = PackedForward(model, parts)
    if reads_only:
        read_tokens_only(forward)
    expected = [gradient(model, "off", lengths, forward) for lengths in SIZES]
    before = compilations()
    compile_parts(forward, parts, "blocks", backend="aot_eager")
    found, graphs = [], []
    for lengths in SIZES:
        found.append(gradient(model, "blocks", lengths, forward))
        graphs.append(compilations() - before)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-10
    assert 0 < graphs[0] < 2 * len(parts.blocks), "equal blocks share their graphs"
    assert graphs[-1] - graphs[0] <= MOST_RECOMPILATIONS, graphs
    forward.close()
    assert all("forward" not in vars(application.module) for application in parts.blocks)


def test_off_changes_nothing() -> None:
    model = tiny("bert")
    forward = PackedForward(model, anatomy(model))
    compile_parts(forward, forward.anatomy, "off")
    assert all("forward" not in vars(part) for part in model.modules())

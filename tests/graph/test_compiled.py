"""Compiled blocks: the same numbers, one set of graphs for all equal blocks, no compilation for other lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bigbatch.graph import compiled
from bigbatch.graph.compiled import MOST_RECOMPILATIONS, compilations, compile_parts
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.model.anatomy import anatomy
from bigbatch.model.runner import Runner, packed_runner
from tests.models import tiny, tiny_batch

# torch hides this warning of its own while it traces, unless warnings are errors as in this session.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)

POOLS: dict[str, Any] = {"bert": "first", "llama": "last"}
SIZES = ((5, 9, 3, 9, 7), (12, 12, 5), (4, 4, 4, 4), (20, 1, 6, 2), (31, 30), (7,))


def gradient(model: Any, kind: str, lengths: tuple[int, ...], forward: Runner) -> torch.Tensor:
    model.zero_grad()
    forward(tiny_batch(lengths, pools=POOLS[model.config.model_type])).square().sum().backward()
    return torch.cat([item.grad.flatten() for item in model.parameters() if item.grad is not None])


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(("family", "reads_only"), [("bert", True), ("llama", False)])
def test_same_numbers_and_few_graphs(family: str, reads_only: bool) -> None:
    model = tiny(family, num_hidden_layers=4).double()
    parts = anatomy(model)
    forward = packed_runner(model, parts)
    if reads_only:
        read_tokens_only(forward, parts)
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
    forward = packed_runner(model, anatomy(model))
    compile_parts(forward, anatomy(model), "off")
    assert all("forward" not in vars(part) for part in model.modules())


def test_evaluation_and_a_second_model_use_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Equal graphs for training before and after; all of transformers' blocks have one wrapper as their `forward`."""
    caplog.set_level("WARNING")
    for family in ("bert", "llama"):
        model = tiny(family)
        forward = packed_runner(model, anatomy(model))
        compile_parts(forward, anatomy(model), "blocks", backend="eager")
        counts = []
        for _ in range(2):
            model.train()
            for lengths in SIZES[:2]:
                gradient(model, "blocks", lengths, forward)
            counts.append(compilations())
            model.eval()
            for mode in (torch.no_grad, torch.inference_mode):
                with mode():
                    for lengths in SIZES[:2]:
                        forward(tiny_batch(lengths, pools=POOLS[model.config.model_type]))
                counts.append(compilations())
        assert counts[0] < counts[1] < counts[2] == counts[3] == counts[4] == counts[5], (family, counts)
        forward.close()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_limit_that_is_reached_is_said_in_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    class Block(nn.Module):
        def forward(self, x: torch.Tensor, how: str) -> torch.Tensor:
            return x + len(how)

    block = Block()
    run = compiled._by_mode(Block.forward, "eager")
    for how in ("a", "bb", "ccc", "dddd", "eeeee"):
        assert torch.equal(run(block, torch.zeros(3), how), torch.full((3,), float(len(how))))
    said = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert said == {
        "compiled blocks: more than 3 versions of one were needed; what is new runs uncompiled, with the same numbers"
    }


def test_hooks_around_a_block_do_not_keep_it_from_being_compiled() -> None:
    """FSDP's, say; only a block that is run for read tokens is left out."""
    model = tiny("bert", num_hidden_layers=3)
    parts = anatomy(model)
    seen: list[str] = []
    for block in {application.module for application in parts.blocks}:
        block.register_forward_pre_hook(lambda *_: seen.append("before"))
    forward = packed_runner(model, parts)
    compile_parts(forward, parts, "blocks", backend="eager")
    assert all("forward" in vars(application.module) for application in parts.blocks)
    gradient(model, "blocks", SIZES[0], forward)
    assert seen == ["before"] * 3 and compilations()
    forward.close()


def test_nothing_to_compile_is_not_called_compiled() -> None:
    model = tiny("bert", num_hidden_layers=1)
    forward = packed_runner(model, anatomy(model))
    read_tokens_only(forward, anatomy(model))
    compile_parts(forward, anatomy(model), "blocks", backend="eager")
    assert not forward.compiled

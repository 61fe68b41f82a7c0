"""The audit finds what was planted, says where, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest
import torch

from bigbatch.plan.precision import FORMATS
from bigbatch.probe.audit import audit, audit_lines, rounded
from bigbatch.probe.watching import Sizes


def run(found, name, lr=1e-4, **patterns):
    forward = found.casting(name, **patterns).run(found.padded())
    try:
        return audit(
            found.padded(),
            forward,
            name,
            found.policy(**patterns),
            found.parts,
            found.task,
            [found.batch],
            lambda module: torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0),
        )
    finally:
        forward.close()


def block(result, name):
    return next(one for one in result.blocks if one.block == name)


FIRST, SECOND = "bert.encoder.layer.0", "bert.encoder.layer.1"


@pytest.mark.parametrize(("name", "eps"), [("bf16", 2**-8), ("fp16", 2**-11)])
def test_a_healthy_model_is_fine_and_its_errors_are_those_of_the_format(small, name, eps):
    result = run(small(), name)
    assert "is fine" in result.verdict and all(one.fine for one in result.blocks)
    assert [one.block for one in result.blocks] == [
        "bert.embeddings",
        FIRST,
        SECOND,
        "bert.pooler",
        "classifier",
    ]
    assert [one.format for one in result.blocks] == ["fp32", name, name, "fp32", "fp32"]
    assert result.blocks[0].forward_error == 0.0, "nothing before it is low"
    for one in result.blocks[1:]:
        assert eps / 10 < one.forward_error < 10 * eps and eps / 10 < one.gradient_error < 20 * eps
    assert result.logits_error < 10 * eps and result.gradient_error < 20 * eps


def test_the_figures_are_those_of_a_pass_by_hand(small):
    found = small()
    result = run(found, "bf16")
    outputs = {}
    handle = found.parts.blocks[1].module.register_forward_hook(
        lambda _part, _args, output: outputs.setdefault(
            len(outputs), output if torch.is_tensor(output) else output[0]
        )
    )
    truth = found.padded()(found.batch)
    casting = found.casting("bf16")
    logits = casting.run(found.padded())(found.batch)
    casting.close(), handle.remove()
    error = (outputs[1].float() - outputs[0]).norm() / outputs[0].norm()
    assert block(result, SECOND).forward_error == pytest.approx(error.item(), rel=1e-5)
    assert result.logits_error == pytest.approx(
        ((logits - truth).abs().max() / truth.abs().max()).item(), rel=1e-5
    )


def test_a_planted_layer_that_overflows_is_the_one_that_is_named(small):
    found = small()
    with torch.no_grad():
        found.parts.blocks[1].module.intermediate.dense.weight.mul_(3e5)
    result = run(found, "fp16")
    assert [one.block for one in result.blocks if not one.fine] == [SECOND]
    bad = block(result, SECOND)
    assert bad.overflow_share > 0.05 and bad.forward_error is None and "exceed 6.55e+04" in bad.verdict
    assert f"keep_fp32=['{SECOND}', '{SECOND}.*']" in bad.verdict
    assert block(result, FIRST).verdict == f"not finite because of {SECOND}"
    assert result.verdict == f"fp16 breaks this model, in {SECOND}: not finite"
    json.dumps(result.to_json(), allow_nan=False)
    # What it advises helps: the layer itself is then no longer at fault.
    cured = run(found, "fp16", keep_fp32=[SECOND, f"{SECOND}.*"])
    assert block(cured, SECOND).forward_error is not None and block(cured, SECOND).format == "fp32"
    # bf16 has the range of fp32.
    assert block(run(found, "bf16"), SECOND).overflow_share == 0.0


def test_a_planted_layer_that_loses_accuracy_is_the_one_that_is_named(small):
    """A large bias that the norm behind it takes out again: bf16 has forgotten what stood beside it."""
    found = small()
    with torch.no_grad():
        found.parts.blocks[0].module.output.dense.bias.add_(300.0)
    result = run(found, "bf16")
    assert [one.block for one in result.blocks if not one.fine] == [FIRST]
    assert "% off" in block(result, FIRST).verdict and result.verdict.startswith(
        f"bf16 is doubtful in {FIRST}"
    )
    assert not any(one.fine is False for one in run(found, "bf16", keep_fp32=[FIRST, f"{FIRST}.*"]).blocks)


def test_gradients_that_fp16_cannot_say_are_counted_at_the_loss_scale(small):
    found = small()
    with torch.no_grad():
        found.parts.head[-1].weight.mul_(1e-9)
    result = run(found, "fp16")
    assert result.loss_scale >= 2.0**14, "nothing overflows, so about as large as it gets"
    assert block(result, FIRST).gradient_underflow_share > 0.1 and "vanish" in block(result, FIRST).verdict
    assert run(small(), "bf16").loss_scale == 1.0


@pytest.mark.parametrize(("lr", "lost"), [(1e-6, True), (1e-1, False)])
def test_updates_smaller_than_the_formats_steps_are_counted(small, lr, lost):
    """Adam's first update moves each weight by lr: bf16 has steps of 1/128 of it, weights are about 0.02."""
    shares = [one.unmoved_share for one in run(small(), "bf16", lr=lr).blocks[1:3]]
    assert all(share > 0.9 if lost else share < 0.1 for share in shares)
    ratios = [one.update_ratio for one in run(small(), "bf16", lr=lr).blocks]
    assert all(ratio > 0 for ratio in ratios)


def test_rounding_to_a_format_is_torchs():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        assert torch.equal(rounded(values, FORMATS[name]), values.to(dtype).float())


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_formats_are_torchs(name):
    facts, mine = torch.finfo({"bf16": torch.bfloat16, "fp16": torch.float16}[name]), FORMATS[name]
    assert (mine.eps, mine.largest, mine.smallest) == (
        facts.eps,
        facts.max,
        facts.smallest_normal * facts.eps,
    )


def test_sizes_by_hand():
    sizes = Sizes()
    sizes.add(torch.tensor([0.0, 1.0, 65504.0, 65536.0, -1e6, 2.0**-26, 3.0, float("inf")]))
    assert sizes.values == 8 and sizes.largest == 2.0**20
    assert sizes.share_above(65504.0) == 3 / 8
    assert sizes.share_above(65504.0, scale=2.0**-4) == 1 / 8
    assert sizes.share_below(2.0**-25) == 1 / 8, "zero has not vanished, it was zero"
    assert sizes.share_below(2.0**-25, scale=4.0) == 0.0
    assert sizes.share_above(65504.0, scale=2.0**15) == 5 / 8


def test_nothing_is_left_behind(small):
    found = small()
    found.module.train()
    found.parts.head[-1].eval()
    found.module.classifier.bias.grad = torch.full((3,), 7.0)
    before = {name: tensor.clone() for name, tensor in found.module.state_dict().items()}
    modes = [part.training for part in found.module.modules()]
    generator = torch.random.get_rng_state()
    run(found, "bf16")
    assert all(torch.equal(before[name], tensor) for name, tensor in found.module.state_dict().items())
    assert [part.training for part in found.module.modules()] == modes
    assert found.module.classifier.bias.grad.tolist() == [7.0] * 3
    assert [name for name, p in found.module.named_parameters() if p.grad is not None] == ["classifier.bias"]
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in found.module.modules())


def test_a_frozen_block_has_no_gradient_and_no_update(small):
    found = small()
    found.parts.blocks[0].module.requires_grad_(False)
    frozen = block(run(found, "bf16"), FIRST)
    assert frozen.gradient_error is None and frozen.fine
    assert (frozen.update_ratio, frozen.unmoved_share) == (0.0, 0.0)


def test_a_shared_block_is_one_line(small):
    result = run(small("albert"), "bf16")
    assert sum(one.format == "bf16" for one in result.blocks) == 1 and all(one.fine for one in result.blocks)


def test_the_table_has_a_line_for_each_block_and_the_verdict(small):
    result = run(small(), "fp16")
    lines = audit_lines(result)
    assert (
        lines[0] == f"precision audit: fp16 against fp32 on 5 real samples, loss scale {result.loss_scale:g}"
    )
    assert [line.split()[0] for line in lines[2:-1]] == [one.block for one in result.blocks]
    assert lines[-1] == f"verdict: {result.verdict}"
    assert all(line.endswith(one.verdict) for line, one in zip(lines[2:-1], result.blocks, strict=True))

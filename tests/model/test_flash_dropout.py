"""The trial that a kernel with dropout has to pass: stand-ins that do it right, and in each way wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bigbatch.model.flash_dropout import _LENGTHS, trial, why_not
from bigbatch.model.grouped import grouped_attention
from bigbatch.model.varlen import flash_attention
from tests.model.test_varlen import asked, qkv

CPU = torch.device("cpu")


def _factors(shares: Tensor, dropout: float) -> Tensor:
    return (torch.rand_like(shares) >= dropout) / (1 - dropout)


def stand_in(fault: str) -> Any:
    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        longest: int,
        *,
        dropout: float,
        causal: bool,
        **_: Any,
    ) -> Tensor:
        assert longest == max(_LENGTHS) and starts.diff().tolist() == list(_LENGTHS)
        outputs = []
        for one in zip(*(x.float().split(_LENGTHS) for x in (q, k, v)), strict=True):
            scores = torch.einsum("qhw,khw->hqk", one[0], one[1]) / (1.0 if fault == "scale" else 8.0)
            if causal and fault != "causal":
                scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
            shares = scores.softmax(-1)
            whole = shares
            if fault == "unscaled":
                shares = shares * _factors(shares, dropout) * (1 - dropout)
            elif fault == "seed":
                torch.seed()
                shares = shares * _factors(shares, dropout)
            elif fault != "keeps":
                shares = shares * _factors(shares, dropout)
            out = torch.einsum("hqk,khw->qhw", shares, one[2])
            if fault == "masks":  # values of one draw, gradients of another
                other = torch.einsum("hqk,khw->qhw", whole * _factors(whole, dropout), one[2])
                out = other + (out - other).detach()
            outputs.append(out)
        return torch.cat(outputs).to(q.dtype)

    return kernel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_kernel_that_does_it_right_passes(dtype: torch.dtype) -> None:
    assert trial(stand_in(""), CPU, dtype) == ""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("scale", "off the formula"),
        ("causal", "off the formula"),
        ("keeps", "ones have the mean 1.000"),
        ("unscaled", "ones have the mean"),
        ("seed", "the same seed drops other weights"),
        ("masks", "its backward pass has other masks"),
    ],
)
def test_each_fault_is_found(fault: str, told: str) -> None:
    with torch.random.fork_rng([]):
        assert told in trial(stand_in(fault), CPU, torch.bfloat16)


def test_where_there_is_no_such_kernel_the_groups_remain() -> None:
    before = torch.get_rng_state()
    assert why_not(CPU, torch.bfloat16) != ""
    assert torch.equal(torch.get_rng_state(), before), "a trial draws nothing from the run's generator"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_cuda(dtype: torch.dtype) -> None:
    device = torch.device("cuda:0")
    assert why_not(device, dtype) == ""
    given = qkv(dtype, "cuda")
    wanted = asked("cuda", dropout=0.1)
    means = [
        torch.stack([kernel(*given, wanted).detach().float() for _ in range(200)]).mean(0)
        for kernel in (flash_attention, grouped_attention)
    ]
    assert float((means[0] - means[1]).norm() / means[1].norm()) < 0.1

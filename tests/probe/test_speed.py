from __future__ import annotations

import pytest
import torch

from bigbatch.probe.speed import product_seconds

CPU = torch.device("cpu")


def test_every_format_computes_the_same_product():
    seen = []

    def measure(work):
        seen.append(work())
        return float(len(seen))

    seconds, unavailable = product_seconds(CPU, ["bf16", "fp16", "tf32", "fp8"], measure=measure)
    assert seconds == {"fp32": 1.0, "bf16": 2.0, "fp16": 3.0}
    assert [product.dtype for product in seen] == [torch.float32, torch.bfloat16, torch.float16]
    assert len({product.shape for product in seen}) == 1
    assert "tensor cores; the device is cpu" in unavailable["tf32"] and "GPU" in unavailable["fp8"]


def test_a_format_that_fails_is_said_to():
    def measure(work):
        if work().dtype == torch.bfloat16:
            raise RuntimeError("no kernel\nmore")
        return 1.0

    seconds, unavailable = product_seconds(CPU, ["bf16"], measure=measure)
    assert seconds == {"fp32": 1.0} and unavailable == {"bf16": "bf16 does not run here: no kernel"}


def test_the_clock_is_real():
    seconds, _ = product_seconds(CPU, [])
    assert 0 < seconds["fp32"] < 1


@pytest.mark.gpu
def test_on_a_gpu_the_low_formats_are_faster():
    seconds, unavailable = product_seconds(torch.device("cuda:0"), ["tf32", "bf16", "fp16"])
    assert seconds["fp16"] < seconds["fp32"]
    if "bf16" not in unavailable:
        assert seconds["bf16"] < seconds["fp32"]

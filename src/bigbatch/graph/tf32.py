"""The switch of tf32, in a way that everyone can still read.

torch has two sets of names for it. What is set by the new ones alone makes the old getters raise, and those are read
by torch's own compiler (`get_float32_matmul_precision`) and by libraries (`allow_tf32`). What is set by the old ones
can be read by both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_NOTHING_OF_ITS_OWN = "none"
"""The new name's value where nobody set it; the old setters cannot say that."""


@contextmanager
def tf32_products(wanted: bool) -> Iterator[None]:
    """Let NVIDIA's tensor cores round the inputs of fp32 matrix products to 10 bits; put back as it was afterwards."""
    if not wanted:
        yield
        return
    before = _by_new_names()
    old = _by_old_names()
    if old is None:  # the user has set the new names: then they are what everyone reads
        _set_new_names("tf32", before[1], "tf32")
    else:
        _set_old_names("high", True)
    try:
        yield
    finally:
        if old is None:
            _set_new_names(*before)
        else:
            _set_old_names(*old)
            for products, value in zip(_products(), before, strict=False):
                if value == _NOTHING_OF_ITS_OWN:
                    products.fp32_precision = value


def _products() -> tuple:
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def _by_new_names() -> tuple[str, str, str]:
    """Of products on CUDA and on the CPU, and of convolutions."""
    cuda, cpu = (str(products.fp32_precision) for products in _products())
    return cuda, cpu, str(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]


def _set_new_names(cuda: str, cpu: str, convolution: str) -> None:
    for products, value in zip(_products(), (cuda, cpu), strict=True):
        if products.fp32_precision != value:
            products.fp32_precision = value
    torch.backends.cudnn.conv.fp32_precision = convolution  # type: ignore[attr-defined]


def _by_old_names() -> tuple[str, bool] | None:
    """(products, convolutions); None when they cannot be read, since the new ones were set."""
    try:
        return torch.get_float32_matmul_precision(), bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None


def _set_old_names(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions

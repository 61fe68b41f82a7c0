"""How fast a format is here: the same matrix product in each, measured, never looked up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from bigbatch.graph.casting import AUTOCAST
from bigbatch.graph.float8 import float8_obstacle
from bigbatch.graph.tf32 import tf32_products

_SHAPES = {"cpu": (256, 512, 512), "cuda": (4096, 4096, 4096)}
"""Tokens, inputs, outputs: on a GPU large enough to fill it; on a CPU 10 ms where a format is emulated."""
_REPEATS = 5


def product_seconds(
    device: torch.device,
    formats: Sequence[str],
    *,
    measure: Callable[[Callable[[], object]], float] | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of one matrix product in fp32 and in each format, at best of a few.

    Args:
        device: where the model is.
        formats: names; fp32 is always measured.
        measure: seconds of a function, for tests.

    Returns:
        Format -> seconds; and format -> why it cannot run here.
    """
    seconds: dict[str, float] = {}
    unavailable: dict[str, str] = {}
    clock = measure or (lambda work: _best_seconds(work, device))
    for name in dict.fromkeys(["fp32", *formats]):
        obstacle = obstacle_to(name, device)
        if obstacle:
            unavailable[name] = obstacle
            continue
        if name == "fp8":
            continue  # only inside its own layers: compared as a whole, by the calibration
        try:
            with tf32_products(name == "tf32"):
                seconds[name] = clock(_product(name, device))
        except RuntimeError as error:
            unavailable[name] = f"{name} does not run here: {str(error).partition(chr(10))[0]}"
    return seconds, unavailable


def obstacle_to(name: str, device: torch.device) -> str:
    """Why a format cannot be used on a device; empty when it can."""
    if name == "tf32" and device.type != "cuda":
        return f"tf32 is a mode of NVIDIA's tensor cores; the device is {device.type}"
    if name == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        return "tf32 needs an NVIDIA GPU of compute capability 8.0"
    if (
        name == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return "this GPU has no bf16"
    if name == "fp8":
        return float8_obstacle(device)
    return ""


def _product(name: str, device: torch.device) -> Callable[[], object]:
    tokens, inputs, outputs = _SHAPES["cuda" if device.type == "cuda" else "cpu"]
    dtype = AUTOCAST.get(name, torch.float32)
    left = torch.ones(tokens, inputs, dtype=dtype, device=device)
    right = torch.ones(inputs, outputs, dtype=dtype, device=device)
    return lambda: left @ right


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """At best, since other work on the machine only ever slows down."""
    wait = torch.cuda.synchronize if device.type == "cuda" else nullcontext
    best = float("inf")
    for _ in range(1 + _REPEATS):  # the first loads kernels
        wait()
        start = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - start)
    return best

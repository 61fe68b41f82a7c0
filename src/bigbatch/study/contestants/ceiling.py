"""No contestant: the largest rate of a matrix product on this machine, now."""

from __future__ import annotations

import time

import torch

from bigbatch.probe.hardware import synchronize
from bigbatch.study.contestants.common import run_contestant
from bigbatch.study.jobs import Job, Outcome

SECONDS_A_SHAPE = 0.5
_WINDOW_SECONDS = 0.05
_SQUARES = ((1024, 1024, 1024), (2048, 2048, 2048))


def compete(_variant: str, job: Job) -> Outcome:
    """Rates of the job's shapes and of two squares; the largest is the ceiling."""
    torch.set_num_threads(job.threads)
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    rates = {}
    for shape in dict.fromkeys([*job.shapes, *_SQUARES]):
        rates["x".join(map(str, shape))] = best_rate(shape, torch.device(job.device), dtype)
    fastest = max(rates, key=rates.__getitem__)
    return Outcome(details={"flops_per_second": rates[fastest], "shape": fastest, "rates": rates})


def best_rate(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of (rows, inner) @ (inner, columns): the best of several windows of at least 50 ms each.

    Args:
        shape: (rows, inner, columns) of the product.
        device: where it is computed.
        dtype: of both matrices and the result.
    """
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    flops, repeats, best = 2.0 * rows * inner * columns, 1, 0.0
    deadline = time.perf_counter() + SECONDS_A_SHAPE
    while time.perf_counter() < deadline:
        synchronize(str(device))
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right, out=out)
        synchronize(str(device))
        seconds = time.perf_counter() - started
        if seconds < _WINDOW_SECONDS:
            repeats *= 2
            continue
        best = max(best, repeats * flops / seconds)
    return best or flops / max(seconds / repeats, 1e-9)


if __name__ == "__main__":
    run_contestant(compete)

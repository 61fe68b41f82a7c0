"""Running a model without leaving a trace in it: for probes, timings and analyses before update 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(module: nn.Module, in_place: Sequence[Tensor] = ()) -> Iterator[None]:
    """Put gradients, buffers, modes and generators back as they were.

    Args:
        module: what is measured.
        in_place: parameters whose gradients are added to a dense one that is there before (`graph.embeddings`).
    """
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    modes = [(part, part.training) for part in module.modules()]
    on_cuda = [buffer.device for buffer in module.parameters() if buffer.device.type == "cuda"][:1]
    for parameter, _ in gradients:
        parameter.grad = None
    for parameter in in_place:
        parameter.grad = torch.zeros_like(parameter)
    try:
        with torch.random.fork_rng(devices=on_cuda):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for part, training in modes:
            part.training = training

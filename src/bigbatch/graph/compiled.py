"""Blocks compiled once: equal blocks share their code, and the number of tokens is a symbol in it.

Attention over a pack stays outside: its groups differ from micro-batch to micro-batch, and its kernels are fused
already. Eager stays the reference: `probe.exactness` compares before a run uses this.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from bigbatch.model.anatomy import Anatomy
from bigbatch.model.forwards import ModuleForward
from bigbatch.plan.forward import Compile

MOST_RECOMPILATIONS = 2
"""A run may compile again so often: the first time for any number of tokens, then for what was not foreseen."""


def compile_parts(
    forward: ModuleForward, parts: Anatomy, kind: Compile, *, backend: str = "inductor"
) -> None:
    """Compile the blocks, or the whole base model, when they first run, until the forward is closed.

    The last block stays eager when it is computed for read tokens only: it runs twice, in two shapes.

    Args:
        forward: that runs the model.
        parts: of the model.
        kind: `blocks`, `whole` or `off`.
        backend: of torch.compile.
    """
    if kind == "off":
        return
    modules = [parts.base] if kind == "whole" else [application.module for application in parts.blocks]
    chosen: list[Any] = [
        module
        for module in dict.fromkeys(modules)
        if not module._forward_pre_hooks or module is parts.base  # read tokens only
    ]
    before = [module.__dict__.get("forward") for module in chosen]
    for module in chosen:
        function = module.forward.__func__
        module.forward = types.MethodType(_code_of(function, backend), module)

    forward.compiled = True

    def undo() -> None:
        forward.compiled = False
        for module, own in zip(chosen, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own

    forward.when_closed(undo)


@cache
def _code_of(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """One compiled function for all modules of a class, and for every forward that is opened in this process."""
    options: dict[str, Any] = {"backend": backend, "recompile_limit": 1 + MOST_RECOMPILATIONS}
    return torch.compile(function, dynamic=True, **options)


def compilations() -> int:
    """Graphs that this process has compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])

"""Blocks compiled once: equal blocks share their code, and the number of tokens is a symbol in it.

Attention over a pack stays outside: its groups differ from micro-batch to micro-batch, and its kernels are fused
already. Eager stays the reference: `probe.exactness` compares before a run uses this. Training and evaluation have code
of their own, so neither uses up what the other may compile again.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from typing import Any

import torch
from torch import nn

from bigbatch.model.anatomy import Anatomy
from bigbatch.model.runner import Runner
from bigbatch.plan.forward import Compile
from bigbatch.private import keep_compiled_code_private

MOST_RECOMPILATIONS = 2
"""Each mode may compile again so often: the first time for any number of tokens, then for what was not foreseen."""


def compile_parts(runner: Runner, parts: Anatomy, kind: Compile, *, backend: str = "inductor") -> None:
    """Compile the blocks, or the whole base model, when they first run, until the runner is closed.

    The last block stays eager when it is computed for read tokens only: it runs twice, in two shapes. What hooks do
    around a block (FSDP gathers its parameters, a policy changes the format) stays outside of its code.

    Args:
        runner: of the model; afterwards it says whether anything is `compiled`.
        parts: of the model.
        kind: `blocks`, `whole` or `off`.
        backend: of torch.compile.
    """
    if kind == "off":
        return
    modules = [parts.base] if kind == "whole" else [application.module for application in parts.blocks]
    chosen: list[Any] = [module for module in dict.fromkeys(modules) if module is not runner.runs_twice]
    if not chosen:
        return
    before = [module.__dict__.get("forward") for module in chosen]
    for module in chosen:
        module.forward = types.MethodType(_by_mode(module.forward.__func__, backend), module)

    runner.lay_out(lambda layout, _: replace(layout, one_shape=True))
    runner.compiled = True

    def undo() -> None:
        runner.compiled = False
        for module, own in zip(chosen, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own

    runner.when_closed(undo)


@cache
def _by_mode(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """One function for all modules of a class, and for every runner that is opened in this process."""
    logging.getLogger("torch._dynamo.convert_frame").addFilter(_in_plain_words)

    @wraps(function)  # some ask a forward which arguments it takes
    def run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        mode = (module.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        return _code_of(function, backend, mode)(module, *args, **kwargs)

    return run


@cache
def _code_of(function: Callable[..., Any], backend: str, mode: tuple[bool, bool, bool]) -> Callable[..., Any]:
    """The code of one mode: what a graph is specialised on anyway. Classes whose `forward` is one wrapper of
    transformers are kept apart, too.
    """
    options: dict[str, Any] = {
        "backend": backend,
        "dynamic": True,
        "recompile_limit": 1 + MOST_RECOMPILATIONS,
        "isolate_recompiles": True,
    }
    keep_compiled_code_private()
    return torch.compile(function, **options)


def _in_plain_words(record: logging.LogRecord) -> bool:
    """Say in one sentence what torch says in nine lines."""
    if "recompile_limit" in record.getMessage():
        record.msg = (
            f"compiled blocks: more than {1 + MOST_RECOMPILATIONS} versions of one were needed; what is new runs "
            "uncompiled, with the same numbers"
        )
        record.args = ()
    return True


def compilations() -> int:
    """Graphs that this process has compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])

"""The last block for the tokens that the head reads, and no others.

Keys and values of all tokens are needed; queries, attention output, both residuals and the feed-forward only where
somebody reads. So the last block runs twice: once over all tokens, left as soon as attention has been given keys
and values, and once over the read tokens, whose queries meet those keys. Its code is the model's own, untouched.
For a classifier that saves about 9 of the 12 units of work of a block (the first pass computes queries, too).

The hooks are plain functions, so that models can be copied; all state is in the layout of the micro-batch. Nothing
here is trusted: `probe.exactness` compares logits and gradient with the padded path on real samples first.

Shapes: T packed tokens, R read tokens, D hidden.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from bigbatch.model.anatomy import Anatomy
from bigbatch.model.attention import LAYOUT, KeysKnown
from bigbatch.model.grouped import gather_rows, scatter_rows
from bigbatch.model.layout import LastBlock, with_last_block
from bigbatch.model.patterns import pattern_of
from bigbatch.model.runner import Runner

_PAIRS = 2**18
"""Pairs of a read token and a token up to which a model with a pattern does without the others: read tokens meet all
keys of their sample."""


def read_tokens_only(runner: Runner, parts: Anatomy) -> None:
    """Compute the last block for read tokens only, until the runner is closed.

    Args:
        runner: of packs.
        parts: of its module.
    """
    block = parts.blocks[-1].module
    applications = sum(each.module is block for each in parts.blocks)
    handles = [
        block.register_forward_pre_hook(_narrow, with_kwargs=True),
        block.register_forward_hook(_widen, with_kwargs=True),
    ]
    pattern = pattern_of(runner.module)
    pairs = None if pattern is None else _PAIRS
    runner.lay_out(partial(with_last_block, applications=applications, most_pairs=pairs))
    runner.runs_twice = block
    for handle in handles:
        runner.when_closed(handle.remove)


def _narrow(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """First pass for keys and values; then the block is given the read tokens instead of all."""
    last = _last_of(kwargs)
    if last is None:
        return None
    last.applied += 1
    if last.applied < last.applications:
        return None
    last.stage = "keys"
    try:
        # Not the call: this runs inside the block's own pre-hook, and its other hooks belong to one pass.
        block.forward(*args, **kwargs)
    except KeysKnown:
        last.stage = "queries"
    else:
        raise RuntimeError("the last block did not use transformers' attention interface")
    hidden_1TD = args[0] if args else kwargs["hidden_states"]
    tokens = hidden_1TD.shape[1]
    narrowed = {
        name: value if name == LAYOUT else _rows_of(value, last, tokens) for name, value in kwargs.items()
    }
    return tuple(_rows_of(value, last, tokens) for value in args), narrowed


def _widen(_block: nn.Module, _args: object, kwargs: dict[str, object], output: Any) -> Any:
    """Rows back to their places, zeros elsewhere: what comes after the block expects all tokens."""
    last = _last_of(kwargs)
    if last is None or last.stage != "queries":
        return None
    last.stage = "after"
    last.keys_1HTW = last.values_1HTW = None  # the graph holds what backward needs
    hidden_1RD = output if isinstance(output, Tensor) else output[0]
    hidden_1TD = scatter_rows(hidden_1RD[0], last.rows_R, last.tokens).unsqueeze(0)
    return hidden_1TD if isinstance(output, Tensor) else (hidden_1TD, *output[1:])


def _last_of(kwargs: dict[str, Any]) -> LastBlock | None:
    layout = kwargs.get(LAYOUT)
    return None if layout is None else layout.last


def _rows_of(value: Any, last: LastBlock, tokens: int) -> Any:
    """The read tokens' part of an argument that has one entry a token: (1, T, ...), or (T,)."""
    if isinstance(value, (tuple, list)):
        return type(value)(_rows_of(item, last, tokens) for item in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim >= 2 and value.shape[:2] == (1, tokens):
        return gather_rows(value[0], last.rows_R).unsqueeze(0)
    return gather_rows(value, last.rows_R) if value.shape == (tokens,) else value

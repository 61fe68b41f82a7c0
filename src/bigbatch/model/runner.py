"""A module, how it is fed and how its outputs are read: the same numbers whichever way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bigbatch.model.anatomy import Anatomy, device_of, headed_model, logits_of
from bigbatch.model.attention import IMPLEMENTATION, LAYOUT
from bigbatch.model.feeds import Packed, Padded, install, of_pack, of_units
from bigbatch.model.heads import TOKENS_ALONE, Input
from bigbatch.model.layout import Layout
from bigbatch.model.pairs import PackedPair, install_pair, is_pair
from bigbatch.model.patterns import pattern_of
from bigbatch.model.products import Product
from bigbatch.model.unseen import follows_interface, nobody_looks
from bigbatch.samples import MicroBatch

Feed = Callable[[MicroBatch], dict[str, Any]]
"""A micro-batch -> the arguments of the module's forward."""
Context = Callable[[], AbstractContextManager[None]]


def _as_it_is(given: Any, _micro_batch: MicroBatch | None = None) -> Any:
    return given


def _its_own(_part: nn.Module) -> None:
    return None


@dataclass(kw_only=True, eq=False)
class Runner:
    """A module that runs one way, and what has been changed about it for that time (`protocols.Forward`)."""

    module: nn.Module
    feed: Feed
    units: Callable[[Tensor, MicroBatch], Tensor]
    """What the head gave -> (U, …) in the order of the micro-batch's units."""
    outputs: Callable[[Any], Tensor] = logits_of
    """What the module gave -> what its head gave."""
    sees: Callable[[MicroBatch], MicroBatch] = _as_it_is
    """The micro-batch with the units that have to be read (`pooling`)."""
    read: Callable[[Tensor, MicroBatch], Any] = _as_it_is
    """The units' outputs and the micro-batch as it was -> what the task is given."""
    around: tuple[Context, ...] = ()
    """Entered for each forward pass, in this order."""
    span: Context = nullcontext
    """Entered for forward passes together with their backward passes (`graph.casting`)."""
    in_place: tuple[Tensor, ...] = ()
    """Weights that must have a dense `.grad` before the first backward of an update (`graph.embeddings`)."""
    compiled: bool = False
    """Whether parts of the module are compiled (`graph.compiled`)."""
    runs_twice: nn.Module | None = None
    """The block that runs twice in a forward pass, if one does (`graph.lazy`)."""
    weight_copies_bytes: int = 0
    """Copies of weights that a forward pass makes, whatever its tokens."""
    output_layer: nn.Module | None = None
    """The layer in front of which the forward pass stops, if it does (`logits.deferred`)."""
    format_of: Callable[[nn.Module], torch.dtype | None] = _its_own
    """What a module multiplies in, where that is less than its parameters have (`graph.casting`)."""
    product: Product = functional.linear
    """What multiplies the output layer that is computed later."""
    _undo: list[Callable[[], None]] = field(default_factory=list, init=False)

    def __call__(self, micro_batch: MicroBatch) -> Any:
        """Outputs in the order of the micro-batch's units."""
        seen = self.sees(micro_batch)
        inputs = self.feed(seen)
        with ExitStack() as stack:
            for context in self.around:
                stack.enter_context(context())
            outputs = self.outputs(self.module(**inputs))
        return self.read(self.units(outputs, seen), micro_batch)

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return device_of(self.module)

    def lay_out(self, change: Callable[[Layout, MicroBatch], Layout]) -> None:
        """Change the layout of every pack; of padded micro-batches there is none."""
        feed = self.feed

        def changed(micro_batch: MicroBatch) -> dict[str, Any]:
            inputs = feed(micro_batch)
            if LAYOUT in inputs:
                inputs[LAYOUT] = change(inputs[LAYOUT], micro_batch)
            return inputs

        self.feed = changed

    def when_closed(self, undo: Callable[[], None]) -> None:
        """Have this done when the runner is closed, the latest first."""
        self._undo.append(undo)

    def close(self) -> None:
        """Put the module back as it was: its own attention, no hooks. The runner is of no use afterwards."""
        while self._undo:
            self._undo.pop()()


def padded_runner(module: nn.Module, pad_id: int, inputs: Mapping[str, Input] = TOKENS_ALONE) -> Runner:
    """The plain way, which every model can: one row a sample. Nothing of the module changes.

    Args:
        module: a model with a head.
        pad_id: what ids are padded with.
        inputs: of `HEADS`, which streams the model is fed and how.
    """
    outer = headed_model(module)
    known = ("sdpa", IMPLEMENTATION) if follows_interface(outer) else ()
    return Runner(
        module=module,
        feed=Padded(module, pad_id, inputs),
        units=of_units,
        around=(partial(nobody_looks, outer, known),),
    )


def packed_runner(
    module: nn.Module,
    parts: Anatomy,
    *,
    attention: str | None = None,
    inputs: Mapping[str, Input] = TOKENS_ALONE,
) -> Runner:
    """Without padding: all samples one behind the other, attention inside each.

    Dropout of hidden states draws masks of shape (1, T, D), attention dropout one mask a sample. The module's attention
    function is taken over and its base hooked until the runner is closed.

    Args:
        module: a model with a head.
        parts: of it.
        attention: what computes attention, a name in `attention.KERNELS`; None: `sdpa`, or `chunked` for a pattern.
        inputs: of `HEADS`, which streams the model is fed and how.

    Raises:
        ModelError: transformers cannot exchange this model's attention function.
    """
    attention = attention or ("sdpa" if pattern_of(module) is None else "chunked")
    feed = PackedPair(parts, attention, inputs) if is_pair(inputs) else Packed(parts, attention)
    runner = Runner(module=module, feed=feed, units=of_pack)
    runner.when_closed(install(parts))
    if is_pair(inputs):
        runner.when_closed(install_pair(parts))
    return runner

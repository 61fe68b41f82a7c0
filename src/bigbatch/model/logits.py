"""Logits that are not computed yet: hidden states and the layer that would turn them into a score per token id.

A vocabulary is large: the logits of 8,192 tokens over 128,256 ids are 4.2 GB in fp32. A loss that takes them chunk by
chunk needs none of that, so the forward stops in front of the output layer, and the rest of the head still runs as
transformers wrote it.

Shape letters: B samples, L padded length, U units, V token ids, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bigbatch.model.anatomy import Anatomy, evaluating, headed_model, trial_inputs
from bigbatch.model.products import Product, by_onednn, onednn_linear
from bigbatch.model.runner import Runner
from bigbatch.samples import MicroBatch

_CPU_CHUNK_BYTES = 2**26
"""Logits that exist at a time on a CPU. torch's own choice (the bytes of the hidden states) gives chunks of 2 to 16
rows for BERT shapes, which read the whole weight each: 5 to 25 times slower, measured."""
_ACCELERATOR_CHUNK_BYTES = 2**29
_SMALLEST_CHUNK = 32
_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest relative difference, of two ways to multiply the same matrices."""
_HALF_ROUNDING = 5e-2


@dataclass(frozen=True, eq=False)
class DeferredLogits:
    """Scores of units over the vocabulary, as their factors: logits = hidden weight^T + bias."""

    hidden_UD: Tensor
    """(U, D) what the output layer would be given."""
    weight_VD: Tensor
    """(V, D) of the output layer; often the embedding's own tensor."""
    bias_V: Tensor | None
    """(V,), or None."""
    low: torch.dtype | None = None
    """What they are multiplied in, where that is less than they have; logits are fp32 all the same."""
    product: Product = functional.linear
    """What multiplies them."""

    def __len__(self) -> int:
        return len(self.hidden_UD)

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.hidden_UD.device

    def logits(self, part: slice = slice(None)) -> Tensor:
        """The logits of some units (U', V), at last."""
        weight_VD, bias_V = self._low_factors if self.low is not None else self.factors()
        logits_UV = self.product(self.hidden_UD[part].to(weight_VD.dtype), weight_VD, bias_V)
        return logits_UV if self.low is None else logits_UV.float()

    @cached_property
    def _low_factors(self) -> tuple[Tensor, Tensor | None]:
        return self.weight_VD.to(self.low), None if self.bias_V is None else self.bias_V.to(self.low)

    def factors(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the precision of the hidden states."""
        dtype = self.hidden_UD.dtype
        return self.weight_VD.to(dtype), None if self.bias_V is None else self.bias_V.to(dtype)

    @property
    def chunk_rows(self) -> int:
        """Units whose logits may exist at a time."""
        on_cpu = self.hidden_UD.device.type == "cpu"
        row_bytes = len(self.weight_VD) * max(4, self.hidden_UD.element_size())
        rows = (_CPU_CHUNK_BYTES if on_cpu else _ACCELERATOR_CHUNK_BYTES) // row_bytes
        return max(_SMALLEST_CHUNK, rows)


def deferred(runner: Runner, output_layer: nn.Module) -> Runner:
    """The runner, stopped in front of the output layer: it gives `DeferredLogits`.

    Args:
        runner: packed or padded; the module is changed only while it is called.
        output_layer: `anatomy.output_layer`, of which `why_not_deferred` has nothing to say.
    """
    layer: Any = output_layer
    outer = headed_model(runner.module)

    def read(hidden_UD: Tensor, _micro_batch: MicroBatch) -> DeferredLogits:
        bias_V = bias_of(layer, outer)
        return DeferredLogits(hidden_UD, layer.weight, bias_V, runner.format_of(layer), runner.product)

    runner.output_layer = layer
    runner.around = (partial(identity, layer, outer), *runner.around)
    runner.read = read
    return runner


def comparable(runner: Runner) -> Runner:
    """The runner with outputs that can be held against another's: where logits are deferred the hidden states, since
    the last layer is the same for both and its logits are large.
    """
    return runner if runner.output_layer is None else replace(runner, read=lambda hidden_UD, _: hidden_UD)


@contextmanager
def identity(layer: nn.Module, outer: nn.Module) -> Iterator[None]:
    """The layer hands its input through; hooks of other rooms on it still run. What the model adds to logits is 0."""
    name = _added(layer, outer)
    added = outer._buffers[name] if name else None
    layer.forward = _hand_through  # type: ignore[method-assign]
    if added is not None:
        outer._buffers[name] = added.new_zeros(())
    try:
        yield
    finally:
        del layer.forward
        if added is not None:
            outer._buffers[name] = added


def _added(layer: nn.Module, outer: nn.Module) -> str:
    """Name of the buffer (1, V) that the model adds to its logits, as BART and Marian do; empty where there is none."""
    shape = (1, len(layer.weight))  # type: ignore[arg-type]
    found = (name for name, buffer in outer.named_buffers(recurse=False) if tuple(buffer.shape) == shape)
    return next(found, "")


def bias_of(layer: nn.Module, outer: nn.Module) -> Tensor | None:
    """(V,) what is added to the logits: the layer's bias, and the model's own; None where there is neither."""
    bias, name = getattr(layer, "bias", None), _added(layer, outer)
    if not name:
        return bias
    added_V = outer.get_buffer(name)[0]
    return added_V if bias is None else bias + added_V


def _hand_through(hidden: Tensor) -> Tensor:
    return hidden


def why_not_deferred(parts: Anatomy) -> str:
    """Why this model's logits have to be computed whole; empty when they need not be.

    Tried on three tokens: hidden states times the output layer must be the model's own logits. A factor behind the
    layer (Granite, Cohere) reaches the hidden states instead, which is the same; a cap (Gemma 2), or a factor on a bias
    too, is found out here, whatever the configuration calls it.
    """
    layer: Any = parts.output_layer
    # An adapter in it starts at zero: a trial would not see it.
    plain = isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward
    if (
        not plain
        or "forward" in vars(layer)
        or not {name for name, _ in layer.named_parameters()} <= {"weight", "bias"}
    ):
        return "its output layer is not a plain linear one"
    weight, outer = layer.weight, parts.outer
    inputs = trial_inputs(outer)
    with evaluating(outer):
        try:
            whole: Tensor = outer(**inputs).logits
            with identity(layer, outer):
                hidden = outer(**inputs).logits
            found = functional.linear(hidden, weight, bias_of(layer, outer))
        except Exception as error:  # whatever a model does with its states there, the plain way remains
            return f"a trial without its output layer failed: {type(error).__name__}"
    if found.shape != whole.shape:
        return "its logits are not what its output layer gives"
    limit = _ROUNDING.get(whole.dtype, _HALF_ROUNDING)
    if bool((found - whole).abs().max() > limit * whole.abs().max()):
        return "its logits are changed behind its output layer (capped, say)"
    return ""


def multiplied_by_onednn(runner: Runner) -> Callable[[], None]:
    """Have oneDNN multiply its matrices, those of logits that are computed later too; returns what undoes it."""
    undo = by_onednn(runner.module, but=runner.output_layer)
    usual, runner.product = runner.product, onednn_linear

    def both() -> None:
        runner.product = usual
        undo()

    return both

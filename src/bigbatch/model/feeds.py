"""What a model is fed from a micro-batch, padded or packed, and where each unit's output is in what comes back.

Which streams reach a model, and by which arguments, is a value of its kind of head (`heads.HEADS`).

The packed way calls the model with one token a unit. Hooks exchange that for the pack on the way into the base model
and gather the tokens that the head reads on the way out of its blocks, so pooler and head see nothing else.

Shape letters: B samples, L the longest in entries, E entries of a stream, T packed tokens, U units, C outputs per unit,
D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import Anatomy, accepts, device_of, headed_model
from bigbatch.model.attention import IMPLEMENTATION, LAYOUT, CannotPack, register
from bigbatch.model.heads import Input
from bigbatch.model.layout import build_layout, cumulative_lengths, positions_in_sample, to_device
from bigbatch.model.memory import REMEMBERED
from bigbatch.model.unseen import follows_interface, is_causal
from bigbatch.samples import MEMORY, TOKENS, MicroBatch, Stream

_IDS, _TYPES = "ids", "token_type_ids"


class Padded:
    """Samples one row each, padded on the right to the longest: what every model can be fed."""

    def __init__(self, module: nn.Module, pad_id: int, inputs: Mapping[str, Input]) -> None:
        """Look at what the module takes.

        Args:
            module: a model with a head.
            pad_id: what ids are padded with.
            inputs: stream -> how it reaches the model.
        """
        self._module = module
        self._pad_id = pad_id
        self._inputs = inputs
        outer = headed_model(module)
        self._typed = uses_types(outer)
        self._options: dict[str, Tensor | bool] = {"use_cache": False} if accepts(outer, "use_cache") else {}
        # Without a mask there is nothing to look at. A causal model would look at its positions instead.
        self._may_leave_mask_out = follows_interface(outer) and not is_causal(outer)

    def __call__(self, micro_batch: MicroBatch) -> dict[str, Tensor | bool]:
        """The arguments of the model's forward."""
        found = dict(self._options)
        for name, how in self._inputs.items():
            found |= self._of(micro_batch.table[name].load(), how)
        return found

    def _of(self, stream: Stream, how: Input) -> dict[str, Tensor]:
        """One stream's arguments, its mask among them."""
        device = device_of(self._module)
        wanted = {
            argument: column
            for column, argument in how.arguments.items()
            if column in stream.columns and (argument != _TYPES or self._typed)
        }
        if how.mask is None:
            return {name: self._whole(stream.columns[column], device) for name, column in wanted.items()}
        lengths_B = stream.lengths
        real_BL = np.arange(int(lengths_B.max())) < lengths_B[:, None]
        found = {
            name: to_device(
                padded(stream.columns[column], real_BL, self._pad_id if column == _IDS else 0), device
            )
            for name, column in wanted.items()
        }
        if MEMORY in stream.columns:
            found[REMEMBERED] = to_device(padded(stream.columns[MEMORY], real_BL, 0), device)
        if not (self._may_leave_mask_out and real_BL.all()):
            found[how.mask] = to_device(real_BL.astype(np.int64), device)
        return found

    def _whole(self, values: np.ndarray, device: torch.device) -> Tensor:
        """A column as it is; numbers in the model's own format."""
        found = to_device(values, device)
        weights = (each.dtype for each in self._module.parameters() if each.is_floating_point())
        return found.to(next(weights, found.dtype)) if found.is_floating_point() else found


def padded(values_E: np.ndarray, real_BL: np.ndarray, filler: int) -> np.ndarray:
    """(B, L, …) entries in their places, whole numbers as int64.

    Args:
        values_E: (E, …), sample behind sample.
        real_BL: (B, L) bool, E of them true: the places that hold an entry.
        filler: of the other places.
    """
    dtype = np.int64 if values_E.dtype.kind in "iu" else values_E.dtype
    found = np.full((*real_BL.shape, *values_E.shape[1:]), filler, dtype=dtype)
    found[real_BL] = values_E
    return found


def uses_types(outer: nn.Module) -> bool:
    """Whether token types have an embedding of their own with at least two rows."""
    types = getattr(outer.config, "type_vocab_size", 0) or 0
    return accepts(outer.base_model, _TYPES) and types > 1  # pyright: ignore[reportArgumentType]


def of_units(outputs: Tensor, micro_batch: MicroBatch) -> Tensor:
    """(U, C) in the order of the micro-batch's units.

    Args:
        outputs: (B, C), one a sample, or (B, L, C), one an entry of the stream that units are read at.
        micro_batch: padded.
    """
    sample_U = to_device(micro_batch.unit_sample_U, outputs.device)
    if outputs.ndim == 2:
        return outputs.index_select(0, sample_U)
    at_U = micro_batch.table.reads.astype(np.int64)
    return outputs[sample_U, to_device(at_U, outputs.device)]


class Packed:
    """Samples one behind the other in one row, each with its own positions."""

    def __init__(self, parts: Anatomy, kernel: str) -> None:
        """Look at what the module takes.

        Args:
            parts: of the module.
            kernel: what computes attention, a name in `attention.KERNELS`.
        """
        self._parts = parts
        self._kernel = kernel
        self._options: dict[str, Tensor | bool] = (
            {"use_cache": False} if accepts(parts.base, "use_cache") else {}
        )

    def __call__(self, micro_batch: MicroBatch) -> dict[str, Any]:
        """One token a unit, and the layout that brings the pack to the base model."""
        device = device_of(self._parts.outer)
        inputs = self._base_inputs(micro_batch, device)
        layout = build_layout(micro_batch, device, inputs=inputs, kernel=self._kernel)
        read_ids_U1 = to_device(micro_batch.ids_T[micro_batch.reads_U][:, None], device)
        remembered_T = micro_batch.table[TOKENS].load().columns.get(MEMORY)
        more = {} if remembered_T is None else {REMEMBERED: to_device(remembered_T[None], device)}
        return {"input_ids": read_ids_U1, LAYOUT: layout, **more}

    def _base_inputs(self, micro_batch: MicroBatch, device: torch.device) -> dict[str, Tensor | bool]:
        parts = self._parts
        # A four-dimensional mask is handed through untouched, so none is built; packed attention ignores it.
        inputs: dict[str, Tensor | bool] = {
            "input_ids": to_device(micro_batch.ids_T[None, :], device),
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        }
        if parts.takes_positions:
            at_T = positions_in_sample(cumulative_lengths(micro_batch.lengths_B), parts.position_offset)
            inputs["position_ids"] = to_device(at_T[None, :], device)
        if parts.uses_segments and micro_batch.segments_T is not None:
            inputs[_TYPES] = to_device(micro_batch.segments_T[None, :], device)
        return {**inputs, **self._options}


def of_pack(outputs: Tensor, _micro_batch: MicroBatch) -> Tensor:
    """(U, C) in the order of the micro-batch's units; heads that read tokens give (U, 1, C)."""
    return outputs if outputs.ndim == 2 else outputs[:, 0]


# ---------------------------------------------------------------- hooks: plain, so that models can be copied


def install(parts: Anatomy) -> Callable[[], None]:
    """Exchange the attention implementation and hook the base; returns what undoes it."""
    register()
    outer: Any = parts.outer
    original = outer.config._attn_implementation
    outer.set_attn_implementation(IMPLEMENTATION)
    if parts.base.config._attn_implementation != IMPLEMENTATION:  # pyright: ignore
        raise ModelError("its attention does not use transformers' attention interface")
    handles = []
    if _swap_in not in parts.base._forward_pre_hooks.values():
        handles.append(parts.base.register_forward_pre_hook(_swap_in, with_kwargs=True))
    if _read_out not in parts.blocks_container._forward_hooks.values():
        handles.append(parts.blocks_container.register_forward_hook(_read_out, with_kwargs=True))

    def uninstall() -> None:
        for handle in handles:
            handle.remove()
        if original != IMPLEMENTATION:
            outer.set_attn_implementation(original)

    return uninstall


def _swap_in(_base: nn.Module, _args: Any, kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]] | None:
    """Give the base model the pack instead of the outer call's single tokens."""
    if kwargs.get(LAYOUT) is None or not kwargs[LAYOUT].inputs:
        return None  # an encoder and a decoder are called with what they read (`model.pairs`)
    if kwargs.get("inputs_embeds") is not None:
        raise CannotPack("its wrapper replaces token ids by embeddings")
    return (), {**kwargs, "token_type_ids": None, **kwargs[LAYOUT].inputs}


def _read_out(_container: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Keep only the tokens that the head reads: (1, T, D) -> (U, 1, D)."""
    layout = kwargs.get(LAYOUT)
    if layout is None:
        return None
    hidden_1TD = output if isinstance(output, Tensor) else output[0]
    read_U1D = hidden_1TD[0].index_select(0, layout.reads_U).unsqueeze(1)
    if isinstance(output, Tensor):
        return read_U1D
    if isinstance(output, tuple):
        return (read_U1D, *output[1:])
    output["last_hidden_state"] = read_U1D
    return output

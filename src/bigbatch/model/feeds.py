"""What a model is fed from a micro-batch, and what is read of what it gives.

Which streams reach a model, and by which arguments, is a value of its kind of head (`heads.HEADS`).

Shape letters: B samples, L the longest in entries, E entries of a stream, U units, C outputs per unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.model.anatomy import accepts, device_of, headed_model
from bigbatch.model.heads import Input
from bigbatch.model.layout import to_device
from bigbatch.model.unseen import follows_interface, is_causal
from bigbatch.samples import MicroBatch, Stream

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

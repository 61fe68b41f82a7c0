"""A small move of every embedded token, added where the model looks its tokens up, and its gradient by sample.

Shape letters: B samples, L padded length, T tokens of a pack, D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.model.layout import to_device
from bigbatch.samples import MicroBatch


class Nudge:
    """Watches one micro-batch's embedded tokens, and moves them.

    ::

        with nudge.watching():  forward and backward      where the loss of each sample rises
        nudge.towards_loss(micro_batch, length)           each sample's tokens move that far, together
        with nudge.moving():    forward and backward
    """

    def __init__(self, embedding: nn.Module) -> None:
        """Nothing is hooked yet.

        Args:
            embedding: called once a forward pass, with the token ids: its output is what moves.
        """
        self._embedding = embedding
        self._leaf: Tensor | None = None
        self._move: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The forward pass inside is what it is without; backward leaves the gradient of the embedded tokens."""
        self._leaf = self._move = None
        with self._hooked(self._watch):
            yield

    @contextmanager
    def moving(self) -> Iterator[None]:
        """The forward pass inside has its tokens moved."""
        with self._hooked(self._moved):
            yield
        self._move = None

    def towards_loss(self, micro_batch: MicroBatch, length: float) -> None:
        """Turn the gradient into the move: for every sample `length` times its own gradient of length 1.

        A sample without a gradient (of weight 0, say) stays where it is.
        """
        assert self._leaf is not None and self._leaf.grad is not None, "nothing was watched"
        gradient, self._leaf = self._leaf.grad, None
        sample = samples_of_tokens(micro_batch, tuple(gradient.shape[:-1]), gradient.device)
        # Divided by the batch's denominator, squares can be below the range of fp32.
        wide = torch.float32 if gradient.device.type == "mps" else torch.float64
        squares = torch.linalg.vector_norm(gradient, dim=-1, dtype=wide).square_()
        squares_B = squares.new_zeros(len(micro_batch.lengths_B) + 1)
        squares_B.index_add_(0, sample.flatten(), squares.flatten())
        factor_B = torch.where(squares_B > 0, length * squares_B.rsqrt(), torch.zeros_like(squares_B))
        factor_B[-1] = 0.0  # padding
        factor = factor_B[sample].unsqueeze(-1).to(torch.promote_types(gradient.dtype, torch.float32))
        self._move = (gradient * factor).to(gradient.dtype)

    def _watch(self, _module: nn.Module, _args: object, embedded: Tensor) -> Tensor:
        assert self._leaf is None, "the tokens were looked up twice"
        self._leaf = torch.zeros_like(embedded, requires_grad=True)
        return embedded + self._leaf

    def _moved(self, _module: nn.Module, _args: object, embedded: Tensor) -> Tensor:
        assert self._move is not None
        return embedded + self._move

    @contextmanager
    def _hooked(self, hook: Callable[..., Tensor]) -> Iterator[None]:
        """Only while it is needed: between updates the module is in the caller's hands."""
        handle = self._embedding.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def samples_of_tokens(micro_batch: MicroBatch, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Which sample each embedded token belongs to, in that shape: (1, T) packed, (B, L) padded; B for padding.

    Args:
        micro_batch: its lengths and packing.
        shape: (1, T) packed, (B, L) padded.
        device: of the result.
    """
    lengths_B = micro_batch.lengths_B
    samples = len(lengths_B)
    found = np.full(shape, samples, dtype=np.int64)
    if micro_batch.packing == "packed":
        found[0, : int(lengths_B.sum())] = np.repeat(np.arange(samples), lengths_B)
    else:
        real_BL = np.arange(shape[1]) < lengths_B[:, None]
        found[real_BL] = np.repeat(np.arange(samples), lengths_B)
    return to_device(found, device)

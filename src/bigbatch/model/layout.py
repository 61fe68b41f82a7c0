"""Where each sample of a packed micro-batch lies. Computed once a micro-batch, shared by all layers.

Shape letters: B samples, T packed tokens, U units, S slots of a padded group (samples x longest).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.records import MicroBatch

_WASTE = 1.3
"""A group of neighbours is attended together while padding makes its score matrices at most this much
larger."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Neighbouring samples that one attention call handles."""

    tokens: int
    """Packed tokens of the group."""
    samples: int
    longest: int
    slots_T: Tensor | None
    """(tokens,) int64 place of each token in (samples x longest) slots; None when all lengths are equal."""
    real_BK: Tensor | None
    """(samples, 1, 1, longest) bool: slots that hold a token; None when all do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """A packed micro-batch as attention and head need it."""

    cumulative_B1: np.ndarray
    """(B + 1,) int64: sample i has the tokens cumulative[i] … cumulative[i + 1] - 1."""
    groups: tuple[Group, ...]
    reads_U: Tensor
    """(U,) int64 positions in the pack that the head reads."""
    inputs: dict[str, Tensor | bool | None]
    """What the base model is given instead of the outer call's arguments."""
    bands: dict[tuple[int, int, bool], Tensor] = field(default_factory=dict)
    """Sliding-window masks by (longest, window, causal), made when first needed."""
    witness: Callable[[nn.Module, int | None], None] | None = None
    """Told of every attention call (module, window): trial runs only."""

    def band(self, longest: int, window: int, causal: bool) -> Tensor:
        """(longest, longest) bool: pairs of query and key with |q - k| < window, and k <= q when causal."""
        key = (longest, window, causal)
        if key not in self.bands:
            at = torch.arange(longest, device=self.reads_U.device)
            behind = at[:, None] - at[None, :]
            self.bands[key] = (behind.abs() < window) & ((behind >= 0) | (not causal))
        return self.bands[key]


def cumulative_lengths(lengths_B: np.ndarray) -> np.ndarray:
    """(B + 1,) int64 start of each sample in the pack, and the end of the last."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths_B, dtype=np.int64)])


def positions_in_sample(cumulative_B1: np.ndarray, offset: int = 0) -> np.ndarray:
    """(T,) int64 position of each packed token in its own sample, from `offset`."""
    lengths_B = np.diff(cumulative_B1)
    return np.arange(cumulative_B1[-1]) - np.repeat(cumulative_B1[:-1], lengths_B) + offset


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as int64 (or its own) tensor on the device; no wait for a GPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.to(device, non_blocking=device.type == "cuda")


def group_samples(lengths_B: np.ndarray) -> list[tuple[int, int]]:
    """Cut the samples, in order, into runs [(first, end)] that waste little when padded to their longest."""
    runs: list[tuple[int, int]] = []
    first, longest, squares = 0, 0, 0
    for index, length in enumerate(lengths_B.tolist()):
        wider = max(longest, length)
        if index > first and (index + 1 - first) * wider**2 > _WASTE * (squares + length**2):
            runs.append((first, index))
            first, wider, squares = index, length, 0
        longest, squares = wider, squares + length**2
    return [*runs, (first, len(lengths_B))]


def build_layout(
    micro_batch: MicroBatch,
    device: torch.device,
    *,
    inputs: dict[str, Tensor | bool | None],
    witness: Callable[[nn.Module, int | None], None] | None = None,
) -> Layout:
    """Indices of one micro-batch on the device."""
    cumulative_B1 = cumulative_lengths(micro_batch.lengths_B)
    groups = [
        _group(cumulative_B1, first, end, device) for first, end in group_samples(micro_batch.lengths_B)
    ]
    return Layout(
        cumulative_B1=cumulative_B1,
        groups=tuple(groups),
        reads_U=to_device(micro_batch.reads_U, device),
        inputs=inputs,
        witness=witness,
    )


def _group(cumulative_B1: np.ndarray, first: int, end: int, device: torch.device) -> Group:
    bounds = cumulative_B1[first : end + 1] - cumulative_B1[first]
    lengths = np.diff(bounds)
    longest = int(lengths.max())
    slots = real = None
    if (lengths != longest).any():
        sample = np.repeat(np.arange(end - first), lengths)
        slots = to_device(sample * longest + positions_in_sample(bounds), device)
        real = to_device(np.arange(longest) < lengths[:, None], device)[:, None, None, :]
    return Group(tokens=int(bounds[-1]), samples=end - first, longest=longest, slots_T=slots, real_BK=real)

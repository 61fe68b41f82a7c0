"""A packed encoder and a packed decoder: two streams of a micro-batch, each one sample behind the other.

The encoder attends inside its samples, the decoder inside its own, and from these to the encoder's of the same sample.
Hooks give each stack the layout of its stream, cross-attention that of both, absolute positions those inside a sample,
and T5's bias (Raffel et al. 2020, section 2.1) the size of the longest sample instead of the whole pack.

Shape letters: B samples, S source tokens, T target tokens, U units, D hidden width, L the longest sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.model.anatomy import Anatomy, accepts, device_of
from bigbatch.model.attention import LAYOUT
from bigbatch.model.heads import Input
from bigbatch.model.layout import (
    SPARE,
    Across,
    Layout,
    across_groups,
    cumulative_lengths,
    groups_of,
    positions_in_sample,
    to_device,
)
from bigbatch.samples import TOKENS, MicroBatch, Stream

_POSITIONS = "embed_positions"
"""transformers' name of what gives a stack absolute positions."""
_NO_BIAS = (1, 1, 1, 1)


class PackedPair:
    """Sources one behind the other in one row, targets in another."""

    def __init__(self, parts: Anatomy, kernel: str, inputs: Mapping[str, Input]) -> None:
        """Look at what the module takes.

        Args:
            parts: of the module, with two stacks.
            kernel: what computes attention, a name in `attention.KERNELS`.
            inputs: stream -> how it reaches the model; the encoder's first.
        """
        self._outer = parts.outer
        self._kernel = kernel
        self._inputs = inputs

    def __call__(self, micro_batch: MicroBatch) -> dict[str, Tensor | Layout | bool]:
        """Ids, and the layouts that the hooks hand to the stacks."""
        device = device_of(self._outer)
        streams = [micro_batch.table[name].load() for name in self._inputs]
        # A four-dimensional mask is handed through untouched, so none is built; packed attention ignores it.
        found: dict[str, Tensor | Layout | bool] = {
            "use_cache": False,
            LAYOUT: self._layout(micro_batch, streams, device),
        }
        for how, stream in zip(self._inputs.values(), streams, strict=True):
            assert how.mask is not None
            found[how.mask] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
            for column, argument in how.arguments.items():
                found[argument] = to_device(stream.columns[column].astype(np.int64)[None, :], device)
        return found

    def _layout(self, micro_batch: MicroBatch, streams: list[Stream], device: torch.device) -> Layout:
        source, target = (self._of(stream.lengths, device) for stream in streams)
        return replace(
            target,
            reads_U=to_device(micro_batch.reads_U, device),
            source=source,
            across=across_groups(target.cumulative_B1, source.cumulative_B1, device),
        )

    def _of(self, lengths_B: np.ndarray, device: torch.device) -> Layout:
        cumulative_B1 = cumulative_lengths(lengths_B)
        return Layout(
            cumulative_B1=cumulative_B1,
            groups=groups_of(cumulative_B1, device, SPARE),
            reads_U=torch.empty(0, dtype=torch.int64, device=device),
            inputs={},
            kernel=self._kernel,
        )


def is_pair(inputs: Mapping[str, Input]) -> bool:
    """Whether a head is fed one text through an encoder and one through a decoder."""
    return len(inputs) == 2 and [*inputs][1] == TOKENS and all(each.mask for each in inputs.values())


def obstacle_of_pair(parts: Anatomy) -> str:
    """Why the structure of an encoder and decoder forbids packing; empty when it does not."""
    if len(parts.stacks) != 2:
        return f"it has {len(parts.stacks)} stacks of blocks; expected an encoder and a decoder"
    if parts.learned_positions and not all(hasattr(each.container, _POSITIONS) for each in parts.stacks):
        return "positions of its tokens cannot be given"
    return ""


def install_pair(parts: Anatomy) -> Callable[[], None]:
    """Hook both stacks, their positions and their attention; returns what undoes it."""
    encoder, decoder = (stack.container for stack in parts.stacks)
    handles = [encoder.register_forward_pre_hook(_of_source, with_kwargs=True)]
    for container in (encoder, decoder):
        places = getattr(container, _POSITIONS, None)
        if isinstance(places, nn.Module):
            own = _Positions(counts=not accepts(places, "position_ids"))
            handles += [
                container.register_forward_pre_hook(own.enter, with_kwargs=True),
                places.register_forward_pre_hook(own.of_longest, with_kwargs=True),
                places.register_forward_hook(own.of_each),
                container.register_forward_hook(own.leave, always_call=True),
            ]
    for part in decoder.modules():
        if accepts(part, "key_value_states"):
            handles.append(part.register_forward_pre_hook(_across, with_kwargs=True))
    for part in (*encoder.modules(), *decoder.modules()):
        if accepts(part, "position_bias") and hasattr(part, "compute_bias"):
            handles.append(part.register_forward_pre_hook(_biased, with_kwargs=True))

    def uninstall() -> None:
        for handle in handles:
            handle.remove()

    return uninstall


# ---------------------------------------------------------------- hooks: of modules that may be copied


Args = tuple[object, ...]
Named = dict[str, object]
Called = tuple[Args, Named]


def _of_source(_encoder: nn.Module, args: Args, kwargs: Named) -> Called | None:
    """The encoder is given the layout of its own stream."""
    layout = kwargs.get(LAYOUT)
    return (args, {**kwargs, LAYOUT: layout.source}) if isinstance(layout, Layout) else None


def _across(part: nn.Module, args: Args, kwargs: Named) -> Called | None:
    """What is given keys of another stream is given the layout of both."""
    layout = kwargs.get(LAYOUT)
    if not isinstance(layout, Layout):
        return None
    given = kwargs.get("key_value_states")
    if given is None:
        at = _place_of_keys(type(part))
        given = args[at] if len(args) > at else None
    return None if given is None else (args, {**kwargs, LAYOUT: Across(layout)})


def _biased(part: nn.Module, args: Args, kwargs: Named) -> Called | None:
    """T5's bias of each distance (1, heads, L, L), as large as the longest sample; a stack's first block makes it."""
    layout = kwargs.get(LAYOUT)
    if layout is None or kwargs.get("position_bias") is not None:
        return None
    if isinstance(layout, Layout) and getattr(part, "has_relative_attention_bias", False):
        bias = part.compute_bias(layout.longest, layout.longest)  # type: ignore[operator]
    else:
        bias = torch.zeros(_NO_BIAS, device=device_of(part))
    return args, {**kwargs, "position_bias": bias}


@dataclass
class _Positions:
    """Absolute positions of one stack: computed for the longest sample, then those of each token taken from there.

    M2M100 counts the tokens that are no padding, also in the middle of a sample, and gives padding a row of zeros.
    """

    counts: bool
    """Whether positions follow from the ids, not from places that are given."""
    layout: Layout | None = None
    """Of the pass that runs."""
    counted_1T: Tensor | None = None
    """Which tokens have a position, where that follows from their ids."""

    def enter(self, _stack: nn.Module, _args: Args, kwargs: Named) -> None:
        layout = kwargs.get(LAYOUT)
        self.layout = layout if isinstance(layout, Layout) else None

    def leave(self, *_: object) -> None:
        self.layout = self.counted_1T = None

    def of_longest(self, places: nn.Module, args: Args, kwargs: Named) -> Called | None:
        if self.layout is None:
            return None
        longest, padding = self.layout.longest, getattr(places, "padding_idx", None)
        first, *others = [_shortened(each, longest) for each in args]
        ids = args[0]
        if isinstance(ids, Tensor) and not ids.is_floating_point():
            first = torch.full_like(ids[:, :longest], 0 if padding is None else padding + 1)
            if padding is not None and self.counts:
                self.counted_1T = ids != padding
        return (first, *others), {name: _shortened(each, longest) for name, each in kwargs.items()}

    def of_each(self, _places: nn.Module, _args: Args, output: Tensor) -> Tensor | None:
        if self.layout is None:
            return None
        if self.counted_1T is None:
            at_T = to_device(positions_in_sample(self.layout.cumulative_B1), output.device)
            return output.index_select(-2, at_T)
        before_T = self.counted_1T[0].cumsum(0) - self.counted_1T[0].long()
        first_T = before_T[self.layout.starts()[:-1].long()][self.layout.sample_of_token()]
        return output.index_select(-2, before_T - first_T) * self.counted_1T[..., None]


def _shortened(given: object, longest: int) -> object:
    """A row of so many tokens, of a tensor or of its shape."""
    if isinstance(given, Tensor) and given.ndim:
        return given[:longest] if given.ndim == 1 else given[:, :longest]
    return (given[0], longest) if isinstance(given, tuple) else given


@cache
def _place_of_keys(kind: type[nn.Module]) -> int:
    """Which positional argument of its forward has the keys of another stream."""
    return [*inspect.signature(kind.forward).parameters].index("key_value_states") - 1  # behind self

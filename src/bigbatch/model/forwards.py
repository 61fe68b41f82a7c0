"""Two ways to run a micro-batch, same numbers: padded, which every model can do, and packed, without padding.

The packed path calls the model with one token a unit. Hooks exchange that for the pack on the way into the
base model and gather the tokens that the head reads on the way out of its blocks, so pooler and head see
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import Anatomy, accepts, anatomy, device_of, evaluating, headed_model
from bigbatch.model.attention import IMPLEMENTATION, LAYOUT, CannotPack, register
from bigbatch.model.feeds import Padded, of_units
from bigbatch.model.heads import TOKENS_ALONE, Input
from bigbatch.model.layout import build_layout, cumulative_lengths, positions_in_sample, to_device
from bigbatch.model.unseen import follows_interface, nobody_looks
from bigbatch.samples import TOKENS, MicroBatch, Table, offsets_of, starts_of


def _as_it_is(logits: Tensor) -> Tensor:
    return logits


def _its_own(_module: nn.Module) -> None:
    return None


class ModuleForward:
    """A module, and what has been changed about it for the time that it is run this way."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.in_place: tuple[Tensor, ...] = ()
        """Weights that must have a dense `.grad` before the first backward of an update (`graph.embeddings`)."""
        self.compiled = False
        """Whether parts of the module are compiled (`graph.compiled`)."""
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered for each forward pass (`graph.casting`)."""
        self.span: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered for forward passes together with their backward passes (`graph.casting`)."""
        self.outputs: Callable[[Tensor], Tensor] = _as_it_is
        """What is done to the logits, inside `around`."""
        self.format_of: Callable[[nn.Module], torch.dtype | None] = _its_own
        """What a module multiplies in, where that is less than its parameters have (`graph.casting`)."""
        self.weight_copies_bytes = 0
        """Copies of weights that a forward pass makes, whatever its tokens."""
        self._undo: list[Callable[[], None]] = []

    def __call__(self, micro_batch: MicroBatch) -> Any:
        """Outputs in the order of the micro-batch's units."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return device_of(self.module)

    def when_closed(self, undo: Callable[[], None]) -> None:
        """Have this done when the forward is closed, the latest first."""
        self._undo.append(undo)

    def close(self) -> None:
        """Put the module back as it was: its own attention, no hooks."""
        while self._undo:
            self._undo.pop()()


class PaddedForward(ModuleForward):
    """The plain way: samples padded on the right to the longest, one row each."""

    def __init__(self, module: nn.Module, pad_id: int, inputs: Mapping[str, Input] = TOKENS_ALONE) -> None:
        """Change nothing of the module.

        Args:
            module: a model with a head.
            pad_id: what ids are padded with.
            inputs: of `HEADS`, which streams the model is fed and how.
        """
        super().__init__(module)
        self._feed = Padded(module, pad_id, inputs)
        self._outer = headed_model(module)
        self._unseen = follows_interface(self._outer)

    def __call__(self, micro_batch: MicroBatch) -> Tensor:
        """(U, C) logits in the order of the micro-batch's units."""
        inputs = self._feed(micro_batch)
        with self.around(), nobody_looks(self._outer, ("sdpa", IMPLEMENTATION) if self._unseen else ()):
            logits = self.outputs(self.module(**inputs).logits)
        return of_units(logits, micro_batch)


class PackedForward(ModuleForward):
    """Without padding: all samples one behind the other, attention inside each.

    Dropout of hidden states draws masks of shape (1, T, D), attention dropout one mask a sample.
    """

    def __init__(self, module: nn.Module, anatomy: Anatomy, *, attention: str = "sdpa") -> None:
        """Take over the module's attention function and hook its base; `close` undoes both.

        Args:
            module: a classification model.
            anatomy: its parts.
            attention: what computes attention, a name in `attention.KERNELS`.

        Raises:
            ModelError: transformers cannot exchange this model's attention function.
        """
        super().__init__(module)
        self.anatomy = anatomy
        self.attention = attention
        self.last_applications = 0
        """Applications of the last block's module, when it is computed for read tokens only (set by `graph.lazy`)."""
        self._options: dict[str, Tensor | bool | None] = (
            {"use_cache": False} if accepts(anatomy.base, "use_cache") else {}
        )
        self.when_closed(_install(anatomy))

    def __call__(self, micro_batch: MicroBatch) -> Tensor:
        """(U, C) logits in the order of the micro-batch's units."""
        return self.run(micro_batch)

    def run(
        self, micro_batch: MicroBatch, witness: Callable[[nn.Module, int | None], None] | None = None
    ) -> Tensor:
        """As the call; `witness` is told of every attention call."""
        device = self.device
        layout = build_layout(
            micro_batch,
            device,
            inputs=self._base_inputs(micro_batch, device),
            witness=witness,
            last_applications=self.last_applications,
            kernel=self.attention,
            one_shape=self.compiled,
        )
        read_ids_U1 = to_device(micro_batch.ids_T[micro_batch.reads_U][:, None], device)
        with self.around():
            logits = self.outputs(self.module(input_ids=read_ids_U1, **{LAYOUT: layout}).logits)
        return logits if logits.ndim == 2 else logits[:, 0]  # heads that read tokens give (U, 1, C)

    def _base_inputs(self, micro_batch: MicroBatch, device: torch.device) -> dict[str, Tensor | bool | None]:
        parts = self.anatomy
        # A four-dimensional mask is handed through untouched, so none is built; packed attention ignores it.
        inputs: dict[str, Tensor | bool | None] = {
            "input_ids": to_device(micro_batch.ids_T[None, :], device),
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        }
        if parts.takes_positions:
            at_T = positions_in_sample(cumulative_lengths(micro_batch.lengths_B), parts.position_offset)
            inputs["position_ids"] = to_device(at_T[None, :], device)
        if parts.uses_segments and micro_batch.segments_T is not None:
            inputs["token_type_ids"] = to_device(micro_batch.segments_T[None, :], device)
        return {**inputs, **self._options}


def can_pack(
    module: nn.Module, parts: Anatomy | None = None, inputs: Mapping[str, Input] = TOKENS_ALONE
) -> tuple[bool, str]:
    """Whether samples can be packed, and why not, in plain words.

    By structure and a trial of three short samples: every block must have called the attention function
    with the layout, the head must read one token, and changing one sample must not change a bit of the
    others' logits. The numbers themselves are compared on real samples by `probe.exactness`.

    Args:
        module: a model with a head.
        parts: the module's, where they are known already.
        inputs: of `HEADS`, what it is fed.
    """
    if not any(each.mask for each in inputs.values()):
        return (
            False,
            "every sample is as long as any other: nothing is padded, and packing would change nothing",
        )
    if [*inputs] != [TOKENS]:
        return False, f"it is fed {' and '.join(inputs)}; only tokens alone are packed"
    parts = parts or anatomy(module)
    reason = _structural_obstacle(parts)
    if reason:
        return False, reason
    try:
        forward = PackedForward(module, parts)
    except ModelError as error:
        return False, str(error)
    try:
        with evaluating(module):
            reason = _trial_obstacle(forward)
    except CannotPack as error:
        reason = str(error)
    except Exception as error:  # a model that cannot take a pack may fail anywhere; the padded path remains
        reason = f"a packed trial failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        forward.close()
    return (False, reason) if reason else (True, "every block uses transformers' attention interface")


def _structural_obstacle(parts: Anatomy) -> str:
    """Why the structure alone forbids packing; empty when it does not."""
    if not parts.pools_one_token:
        return "its head reads more than one token of a sample (mean pooling)"
    if parts.learned_positions and not parts.takes_positions:
        return "positions of its tokens cannot be given"
    if not getattr(parts.base, "_supports_attention_backend", False):
        return "its attention does not use transformers' attention interface"
    kinds = set(getattr(parts.outer.config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        return f"its blocks mix tokens by {', '.join(sorted(kinds))}"
    return ""


def _trial_obstacle(forward: PackedForward) -> str:
    """Why a trial of three samples forbids packing; empty when it does not."""
    parts = forward.anatomy
    batch, changed = _trial_batch(parts, changed=False), _trial_batch(parts, changed=True)
    calls: list[int | None] = []
    inside: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_: inside.append(len(calls)))
        for block in {application.module for application in parts.blocks}
    ]
    try:
        before = forward.run(batch, lambda _, window: calls.append(window))
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        return "its layers do not hand the layout of a pack down to their attention"
    served = sum(after > earlier for earlier, after in zip([0, *inside], inside, strict=False))
    if served != len(parts.blocks):
        return f"only {served} of {len(parts.blocks)} blocks used transformers' attention interface"
    if before.shape[0] != len(batch.reads_U):
        return "its head cannot be given single tokens"
    sliding = "sliding_attention" in (getattr(parts.outer.config, "layer_types", None) or ())
    if sliding and all(window is None for window in calls):
        return "its sliding window does not reach the attention function"
    after = forward.run(changed)
    others_U = torch.from_numpy(batch.unit_sample_U != 1).to(before.device)
    if not torch.equal(before[others_U], after[others_U]):
        return "a sample's output depends on its neighbours"
    return ""


def _trial_batch(parts: Anatomy, changed: bool) -> MicroBatch:
    """Samples of 3, 4 and 2 tokens, all read by heads of tokens; `changed` gives the middle one other ids."""
    vocabulary = parts.outer.get_input_embeddings().num_embeddings  # pyright: ignore
    ids_T = np.arange(9, dtype=np.int64) % vocabulary
    if changed:
        ids_T[3:7] = (ids_T[3:7] + 5) % vocabulary
    lengths_B = np.array([3, 4, 2])
    ends_B = lengths_B.cumsum()
    reads_U = ends_B - (lengths_B if parts.pools == "first" else 1)
    if parts.pools == "tokens":
        reads_U = np.arange(9)
    unit_sample_U = np.searchsorted(ends_B, reads_U, side="right")
    units = len(reads_U)
    table = Table.of_tokens(
        ids=ids_T,
        token_offsets=offsets_of(lengths_B),
        reads=reads_U - starts_of(lengths_B)[unit_sample_U],
        unit_offsets=offsets_of(np.bincount(unit_sample_U, minlength=3)),
        values=np.zeros(units, np.int64),
        weights=np.ones(units, np.float32),
    )
    return MicroBatch(
        index=0,
        sample_ids_B=np.arange(3),
        table=table,
        targets=table.targets,
        packing="packed",
        capacity_tokens=9,
    )


# ---------------------------------------------------------------- hooks: plain, so that models can be copied


def _install(parts: Anatomy) -> Callable[[], None]:
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
    if kwargs.get(LAYOUT) is None:
        return None
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

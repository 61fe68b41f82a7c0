"""One batch of texts, token by token: what the model is shown, what is asked of each step, where each text ends.

`transformers`' own `generate` does it. Where ranks divide the model, each of its passes has to be one of all ranks:
then tokens are chosen here, in equally many steps everywhere.

Shapes: B texts, L tokens of the longest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, StoppingCriteria
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from bigbatch.infer.sampling import Decoding, choosers
from bigbatch.model.feeds import padded
from bigbatch.model.layout import to_device
from bigbatch.samples import TOKENS, Table
from bigbatch.tasks.seq2seq import SOURCE

NONE = -1
"""Behind the end of a text, where texts lie side by side."""
Seen = Callable[[np.ndarray], "np.ndarray | None"]
"""`seen(ids_BL)`: what was written so far, called after each step; which texts end here (B,) bool, None: none does."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Token ids that frame what is written."""

    ends: tuple[int, ...]
    """A text ends with any of them."""
    pad: int
    shown: tuple[int, ...] = ()
    """Of an encoder-decoder: what stands in front of every target, behind its start."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Texts that are written together."""

    inputs: Mapping[str, Tensor]
    """Arguments of the model."""
    rows_B: np.ndarray
    """(B,) number of each row, which what is drawn is a function of."""
    most_B: np.ndarray
    """(B,) int64: tokens that each may get, whatever the others get."""
    marks: Marks
    done_B: np.ndarray | None = None
    """(B,) tokens that were written of each before; None: none were."""

    def written_before(self, rows_B: np.ndarray, done_B: np.ndarray) -> Batch:
        """The same, of rows with these numbers, of which so many tokens are there."""
        return replace(self, rows_B=rows_B, done_B=done_B)

    @property
    def paired(self) -> bool:
        """Whether an encoder reads what is written from."""
        return "decoder_input_ids" in self.inputs

    @property
    def shown_BL(self) -> Tensor:
        """What the next token is chosen behind."""
        return self.inputs["decoder_input_ids" if self.paired else "input_ids"]


def batch_of_pairs(
    table: Table, chosen_B: np.ndarray, most_B: np.ndarray, marks: Marks, device: torch.device
) -> Batch:
    """Sources for an encoder, padded on the right, and how each target begins.

    Args:
        table: with a stream of sources; its tokens are what the decoder reads, of which the first is taken.
        chosen_B: (B,) rows of it.
        most_B: (B,) tokens that each may get.
        marks: of the model.
        device: of the model.
    """
    source = table[SOURCE].take(chosen_B).load()
    real_BL = np.arange(int(source.lengths.max())) < source.lengths[:, None]
    begun = table[TOKENS].take(chosen_B).load()
    starts = begun.columns["ids"][begun.offsets[:-1]]
    before = np.tile(np.asarray(marks.shown, np.int64), (len(chosen_B), 1))
    inputs = {
        "input_ids": to_device(padded(source.columns["ids"], real_BL, marks.pad), device),
        "attention_mask": to_device(real_BL.astype(np.int64), device),
        "decoder_input_ids": to_device(np.concatenate([starts[:, None].astype(np.int64), before], 1), device),
    }
    return Batch(inputs=inputs, rows_B=chosen_B, most_B=most_B, marks=marks)


def batch_of_prompts(
    table: Table, chosen_B: np.ndarray, most_B: np.ndarray, marks: Marks, device: torch.device
) -> Batch:
    """Prompts that are continued, padded on the left: what is written next stands at the same place of all.

    Positions count real tokens: transformers takes them from the mask.

    Args:
        table: of one stream of tokens.
        chosen_B: (B,) rows of it.
        most_B: (B,) tokens that each may get.
        marks: of the model.
        device: of the model.
    """
    tokens = table[TOKENS].take(chosen_B).load()
    longest = int(tokens.lengths.max())
    real_BL = np.arange(longest) >= longest - tokens.lengths[:, None]
    inputs = {
        "input_ids": to_device(padded(tokens.columns["ids"], real_BL, marks.pad), device),
        "attention_mask": to_device(real_BL.astype(np.int64), device),
    }
    return Batch(inputs=inputs, rows_B=chosen_B, most_B=most_B, marks=marks)


def by_transformers(outer: nn.Module, batch: Batch, how: Decoding, seen: Seen | None = None) -> np.ndarray:
    """(B, L) int64 tokens of each text, its end mark included; what stands behind that is of no meaning.

    Args:
        outer: the model.
        batch: what it writes.
        how: to write.
        seen: called after each step; of beams, several rows a text.
    """
    assert isinstance(outer, GenerationMixin), "models of transformers write"
    own, first = outer.generation_config, batch.shown_BL.shape[1]
    settings = copy.deepcopy(own)
    settings.update(
        max_new_tokens=int(batch.most_B.max()), max_length=None, num_beams=how.beams or 1,
        num_return_sequences=1, do_sample=False, temperature=None, top_p=None, top_k=None, use_cache=True,
        forced_bos_token_id=None, forced_eos_token_id=None, eos_token_id=[*batch.marks.ends] or None,
        pad_token_id=batch.marks.pad, return_dict_in_generate=False,
    )  # fmt: skip
    further: dict[str, object] = {"past_key_values": _cache(True)} if batch.paired else {}
    # Where one says None, `generate` takes what the model itself says.
    outer.generation_config = settings
    try:
        ids_BL: Tensor = outer.generate(  # pyright: ignore[reportAttributeAccessIssue]
            **batch.inputs, generation_config=settings, **further,
            logits_processor=choosers(how, batch.rows_B, first, batch.done_B),
            stopping_criteria=[_Ends(batch, first, seen)],
        )  # fmt: skip
    finally:
        outer.generation_config = own
    return ids_BL[:, first:].cpu().numpy()


class _Ends(StoppingCriteria):
    """Texts that have as many tokens as they may, and those that whoever watches has end."""

    def __init__(self, batch: Batch, first: int, seen: Seen | None) -> None:
        self._most_B = torch.from_numpy(batch.most_B).to(batch.shown_BL.device)
        self._first, self._seen = first, seen

    @override
    def __call__(self, input_ids: Tensor, scores: object, **options: object) -> Tensor:  # type: ignore[override]
        """(B,) bool: which texts end here; of beams as many a text as are looked at.

        Args:
            input_ids: (B, L) with what was shown.
            scores: not read.
            options: not read.
        """
        written = input_ids.shape[1] - self._first
        over = self._most_B.repeat_interleave(len(input_ids) // len(self._most_B)) <= written
        if self._seen is not None:
            found = self._seen(input_ids[:, self._first :].cpu().numpy())
            if found is not None:
                over = over | torch.from_numpy(found).to(over.device)
        return over


def stepwise(outer: nn.Module, batch: Batch, most: int) -> np.ndarray:
    """The likeliest token, again and again, by passes of the whole model: as `by_transformers`, greedily.

    Args:
        outer: the model.
        batch: what it writes.
        most: steps that are taken, on every rank as many.
    """
    shown_BL, found = batch.shown_BL, []
    cache = _cache(batch.paired)
    given: dict[str, object] = {"input_ids": batch.inputs["input_ids"]} if batch.paired else {}
    mask_BL = batch.inputs["attention_mask"]
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
    for _ in range(most):
        if batch.paired:
            given = {**given, "attention_mask": mask_BL, "decoder_input_ids": shown_BL}
        else:
            given = {"input_ids": shown_BL, "attention_mask": mask_BL, "position_ids": positions_BL}
        output = outer(**given, past_key_values=cache, use_cache=True)
        if batch.paired:
            given = {"encoder_outputs": BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)}
        else:
            mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(mask_BL), 1)], 1)
            positions_BL = positions_BL[:, -1:] + 1
        shown_BL = output.logits[:, -1].argmax(-1, keepdim=True)
        found.append(shown_BL.cpu().numpy())
    return np.concatenate(found, axis=1)


def _cache(paired: bool) -> DynamicCache | EncoderDecoderCache:
    """One that grows: that of a configuration has as many layers as the encoder, whatever the decoder has."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache()) if paired else DynamicCache()


def until_their_ends(
    ids_BL: np.ndarray, most_B: np.ndarray, ends: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """What belongs to each text, whatever was written behind its end or beside it.

    Args:
        ids_BL: (B, L) int64, as it was written.
        most_B: (B,) tokens that each may have.
        ends: marks.

    Returns:
        (B, L) int64 with `NONE` from the end mark or the bound on, and (B,) bool: which came to an end mark.
    """
    within_BL = np.arange(ids_BL.shape[1]) < most_B[:, None]
    marks_BL = np.isin(ids_BL, np.asarray(ends, np.int64)) & within_BL
    over_BL = np.cumsum(marks_BL, axis=1) > 0
    return np.where(within_BL & ~over_BL, ids_BL, NONE).astype(np.int64), marks_BL.any(1)

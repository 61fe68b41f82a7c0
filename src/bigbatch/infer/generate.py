"""Texts that an encoder-decoder writes: greedily or with beams, many at a time, in batches by length.

`transformers`' own `generate` does it, from the same start as training: the decoder's first token, and what the
tokenizer puts in front of every target (a mark of the language, say). Where ranks divide the model, each of its passes
has to be one of all ranks: then tokens are chosen here, greedily, in equally many steps everywhere.

Which texts share a batch does not depend on the ranks. Shapes: B texts, N of a table, L tokens of the longest.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from bigbatch.data.packs import cut
from bigbatch.infer.forwards import inferring
from bigbatch.model.anatomy import device_of, headed_model
from bigbatch.model.feeds import padded
from bigbatch.model.layout import to_device
from bigbatch.model.source import quiet
from bigbatch.protocols import Forward, World
from bigbatch.samples import TOKENS, Table
from bigbatch.tasks.seq2seq import REFERENCE, SOURCE, Seq2Seq

_NONE = -1
"""Behind the end of a text, where texts lie side by side."""
_LONGER, _MORE = 2, 50
"""A text ends, at the latest, after so many times its source's tokens, and so many more: one that never stops must not
hold up the others."""
_BATCH = 4
"""Times the tokens of a forward pass that a batch may have: one step computes one token a text."""


def texts_of(
    forward: Forward, task: Seq2Seq, table: Table, *, micro_tokens: int, world: World | None = None
) -> tuple[list[str], list[str]]:
    """(what the model writes, what was wanted) for each sample of a table.

    Args:
        forward: has the `module`.
        task: knows tokenizer and marks; without a tokenizer, ids stand for words.
        table: of one split, with targets.
        micro_tokens: as of a forward pass.
        world: the ranks that share the work; each gets all texts.
    """
    found = written(forward, task, table, micro_tokens=micro_tokens, world=world)
    texts = [task.text_of(ids) for ids in found]
    if REFERENCE in table.streams:
        stream = table[REFERENCE].load()
        bounds = zip(stream.offsets[:-1], stream.offsets[1:], strict=True)
        wanted = [bytes(stream.columns["bytes"][first:end]).decode() for first, end in bounds]
    else:
        bounds = zip(table.unit_offsets[:-1], table.unit_offsets[1:], strict=True)
        wanted = [task.text_of(table.values[first:end].tolist()) for first, end in bounds]
    return texts, wanted


def written(
    forward: Forward, task: Seq2Seq, table: Table, *, micro_tokens: int, world: World | None = None
) -> list[list[int]]:
    """Token ids that the model writes for each sample (N lists), without start and end marks.

    Args:
        forward: has the `module`, which is put into eval mode meanwhile.
        task: knows the marks.
        table: of one split; targets are not read.
        micro_tokens: computed tokens of a forward pass.
        world: the ranks that share the work; each gets all texts.
    """
    module: nn.Module = forward.module  # type: ignore[attr-defined]
    divided = any(hasattr(parameter, "placements") for parameter in module.parameters())
    rank, size = (0, 1) if world is None else (world.part.rank, world.part.size)
    between = getattr(forward, "between", None)
    found: list[np.ndarray] = []
    writes = _stepwise if divided else _by_transformers
    most_N = _most_N(table)
    with inferring(forward), quiet():
        for chosen_B, most in _batches(table, most_N, micro_tokens, size, even=divided)[rank::size]:
            if between is not None:
                between()
            ids_BL = writes(headed_model(module), task, table, chosen_B, most)
            # Its own bound, not that of the longest beside it: what is written does not depend on the batches.
            ids_BL[np.arange(ids_BL.shape[1]) >= most_N[chosen_B, None]] = _NONE
            found.append(np.concatenate([chosen_B[:, None], ids_BL], axis=1))
    return _in_order(found, len(table), world)


def _batches(
    table: Table, most_N: np.ndarray, micro_tokens: int, ranks: int, *, even: bool
) -> list[tuple[np.ndarray, int]]:
    """(samples, tokens that each may get) of each batch; the ranks take them in turn.

    Where they have to take their steps together, as many as there are ranks get equally many tokens, and a rank for
    which nothing is left writes the first texts again.
    """
    pieces = cut(table[SOURCE].lengths + most_N, _BATCH * micro_tokens, "padded")
    found = [(chosen, int(most_N[chosen].max())) for chosen in pieces]
    if not even:
        return found
    found += found[:1] * (-len(found) % ranks)
    turns = [found[first : first + ranks] for first in range(0, len(found), ranks)]
    return [(chosen, max(most for _, most in turn)) for turn in turns for chosen, _ in turn]


def _most_N(table: Table) -> np.ndarray:
    """(N,) int64: tokens that the text of each sample may get."""
    return _LONGER * table[SOURCE].lengths + _MORE


def _prompts(task: Seq2Seq, table: Table, chosen_B: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """Sources, padded, and how each target begins."""
    source = table[SOURCE].take(chosen_B).load()
    real_BL = np.arange(int(source.lengths.max())) < source.lengths[:, None]
    begun = table[TOKENS].take(chosen_B).load()
    starts = begun.columns["ids"][begun.offsets[:-1]]
    before = np.tile(np.asarray(task.target_frame[0], np.int64), (len(chosen_B), 1))
    pad = task.marks[2] or 0
    return {
        "input_ids": to_device(padded(source.columns["ids"], real_BL, pad), device),
        "attention_mask": to_device(real_BL.astype(np.int64), device),
        "decoder_input_ids": to_device(np.concatenate([starts[:, None].astype(np.int64), before], 1), device),
    }


def _by_transformers(
    outer: nn.Module, task: Seq2Seq, table: Table, chosen_B: np.ndarray, most: int
) -> np.ndarray:
    assert isinstance(outer, GenerationMixin), "encoder-decoders of transformers write"
    inputs = _prompts(task, table, chosen_B, device_of(outer))
    first = inputs["decoder_input_ids"].shape[1]
    own = outer.generation_config
    how = copy.deepcopy(own)
    how.update(
        max_new_tokens=_new_tokens(task, most, first), max_length=None, num_beams=task.beams, do_sample=False,
        use_cache=True, forced_bos_token_id=None, forced_eos_token_id=None, eos_token_id=task.marks[1],
        pad_token_id=task.marks[2] or 0, return_dict_in_generate=False,
    )  # fmt: skip
    # Where one says None, `generate` takes what the model itself says.
    outer.generation_config = how
    try:
        ids_BL: Tensor = outer.generate(**inputs, generation_config=how, past_key_values=_cache())  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        outer.generation_config = own
    return _ended(ids_BL[:, first:].cpu().numpy(), task.marks[1])


def _new_tokens(task: Seq2Seq, most: int, shown: int) -> int:
    """Tokens to write behind those that the decoder is shown at first: the model has positions for no more."""
    return max(1, min(most, task.most_written + 1 - shown))


def _cache() -> EncoderDecoderCache:
    """One that grows: that of a configuration has as many layers as the encoder, whatever the decoder has."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def _stepwise(outer: nn.Module, task: Seq2Seq, table: Table, chosen_B: np.ndarray, most: int) -> np.ndarray:
    """The likeliest token, again and again, by passes of the whole model."""
    inputs = _prompts(task, table, chosen_B, device_of(outer))
    shown_BL, found = inputs["decoder_input_ids"], []
    given = {"input_ids": inputs["input_ids"]}
    cache = _cache()
    for _ in range(_new_tokens(task, most, shown_BL.shape[1])):
        output = outer(
            **given, attention_mask=inputs["attention_mask"], decoder_input_ids=shown_BL,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        given = {"encoder_outputs": BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)}
        shown_BL = output.logits[:, -1].argmax(-1, keepdim=True)
        found.append(shown_BL.cpu().numpy())
    return _ended(np.concatenate(found, axis=1), task.marks[1])


def _ended(ids_BL: np.ndarray, end: int | None) -> np.ndarray:
    """(B, L) int64: `_NONE` from the first end mark on."""
    over_BL = np.cumsum(ids_BL == end, axis=1) > 0 if end is not None else np.zeros(ids_BL.shape, bool)
    return np.where(over_BL, _NONE, ids_BL).astype(np.int64)


def _in_order(found: Sequence[np.ndarray], count: int, world: World | None) -> list[list[int]]:
    """Texts in table order, of all ranks: (sample, its tokens) side by side."""
    width = max((len(rows[0]) for rows in found), default=1)
    if world is not None and world.size > 1:
        width = max(int(rows.max()) for rows in world.gather_rows(np.array([[width]], np.int64)))
    filled = [np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=_NONE) for rows in found]
    mine = np.concatenate([*filled, np.empty((0, width), np.int64)])
    every = [mine] if world is None or world.size == 1 else world.gather_rows(mine)
    texts: list[list[int]] = [[] for _ in range(count)]
    for row in np.concatenate(every).tolist():
        texts[row[0]] = [token for token in row[1:] if token != _NONE]
    return texts

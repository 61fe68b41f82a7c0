"""Whether the samples of a model can be packed: by its structure, and by a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import Anatomy, anatomy, evaluating
from bigbatch.model.attention import CannotPack
from bigbatch.model.heads import TOKENS_ALONE, Input
from bigbatch.model.layout import Layout
from bigbatch.model.pairs import is_pair, obstacle_of_pair
from bigbatch.model.runner import Runner, packed_runner
from bigbatch.samples import TOKENS, MicroBatch, Stream, Table, offsets_of, starts_of


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
    if [*inputs] != [TOKENS] and not is_pair(inputs):
        return False, f"it is fed {' and '.join(inputs)}; only tokens are packed"
    parts = parts or anatomy(module)
    reason = _structural_obstacle(parts, is_pair(inputs))
    if reason:
        return False, reason
    try:
        runner = packed_runner(module, parts, inputs=inputs)
    except ModelError as error:
        return False, str(error)
    try:
        with evaluating(module):
            reason = _trial_obstacle(runner, parts, inputs)
    except CannotPack as error:
        reason = str(error)
    except Exception as error:  # a model that cannot take a pack may fail anywhere; the padded path remains
        reason = f"a packed trial failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        runner.close()
    return (False, reason) if reason else (True, "every block uses transformers' attention interface")


def _structural_obstacle(parts: Anatomy, pair: bool) -> str:
    """Why the structure alone forbids packing; empty when it does not."""
    if not parts.pools_one_token:
        return "its head reads more than one token of a sample (mean pooling)"
    if pair and (reason := obstacle_of_pair(parts)):
        return reason
    if parts.learned_positions and not parts.takes_positions and not pair:
        return "positions of its tokens cannot be given"
    # Encoder-decoders use the interface without a word about it; the trial finds out.
    if not pair and not getattr(parts.base, "_supports_attention_backend", False):
        return "its attention does not use transformers' attention interface"
    kinds = set(getattr(parts.outer.config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        return f"its blocks mix tokens by {', '.join(sorted(kinds))}"
    return ""


def _trial_obstacle(runner: Runner, parts: Anatomy, inputs: Mapping[str, Input]) -> str:
    """Why a trial of three samples forbids packing; empty when it does not."""
    batch, changed = (_trial_batch(parts, inputs, changed=changed) for changed in (False, True))
    calls: list[int | None] = []
    inside: list[int] = []

    def witnessed(layout: Layout) -> Layout:
        source = None if layout.source is None else witnessed(layout.source)
        return replace(layout, source=source, witness=lambda _, window: calls.append(window))

    runner.lay_out(lambda layout, _: witnessed(layout))
    handles = [
        block.register_forward_hook(lambda *_: inside.append(len(calls)))
        for block in {application.module for application in parts.blocks}
    ]
    try:
        before = runner(batch)
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
    after = runner(changed)
    others_U = torch.from_numpy(batch.unit_sample_U != 1).to(before.device)
    if not torch.equal(before[others_U], after[others_U]):
        return "a sample's output depends on its neighbours"
    return ""


def _trial_batch(parts: Anatomy, inputs: Mapping[str, Input], *, changed: bool) -> MicroBatch:
    """Samples of 3, 4 and 2 tokens, all read by heads of tokens; `changed` gives the middle one other ids. An encoder
    reads 2, 4 and 3 of them.
    """
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
    if is_pair(inputs):
        read_S = np.arange(9, dtype=np.int64) % vocabulary
        if changed:
            read_S[2:6] = (read_S[2:6] + 5) % vocabulary
        others = Stream(columns={"ids": read_S}, offsets=offsets_of(np.array([2, 4, 3])), positions=1)
        table = table.replaced(**{name: others for name in inputs if name != TOKENS})
    return MicroBatch(
        index=0,
        sample_ids_B=np.arange(3),
        table=table,
        targets=table.targets,
        packing="packed",
        capacity_tokens=9,
    )

"""From the states of a text's tokens to one vector.

Shapes: B texts of a micro-batch, T tokens, D hidden width.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError
from bigbatch.model.folder import read_in
from bigbatch.model.layout import cumulative_lengths, to_device
from bigbatch.model.runner import Runner
from bigbatch.model.unseen import is_causal
from bigbatch.samples import MicroBatch

Pooling = Literal["mean", "first", "last"]
MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
"""As the pooling file of sentence-transformers calls them."""


def reading(micro_batch: MicroBatch, pooling: Pooling) -> MicroBatch:
    """The micro-batch with the tokens that the pooling reads as its units, text after text."""
    lengths_B = micro_batch.lengths_B
    ends_B = cumulative_lengths(lengths_B)
    texts = np.arange(len(lengths_B), dtype=np.int64)
    if pooling == "mean":
        return micro_batch.reading(np.arange(int(ends_B[-1])), np.repeat(texts, lengths_B))
    reads_U = ends_B[:-1] if pooling == "first" else ends_B[1:] - 1
    return micro_batch.reading(reads_U.astype(np.int64), texts)


def usual_pooling(module: nn.Module, folder: str | None) -> Pooling:
    """What a model was trained with, where its folder says so; else last for causal models, mean for others.

    Args:
        module: the model.
        folder: a local one with the files of sentence-transformers, perhaps; None: it has none.
    """
    file = Path(folder or "") / "1_Pooling" / "config.json"
    if folder and file.is_file():
        try:
            found = read_in(Path(folder), "1_Pooling/config.json")
            modes: list[Pooling] = [mode for key, mode in MODES.items() if found.get(key) is True]
        except ModelError:
            modes = list[Pooling]()
        if len(modes) == 1:
            return modes[0]
    return "last" if is_causal(module) else "mean"


def pooled(runner: Runner, pooling: Pooling | None) -> Runner:
    """The runner with states of tokens pooled to one vector a text (B, D), at least fp32; None leaves it as it is."""
    if pooling is not None:
        runner.sees = partial(reading, pooling=pooling)
        runner.read = partial(_vectors, pooling=pooling)
    return runner


def _vectors(states_UD: Tensor, micro_batch: MicroBatch, pooling: Pooling) -> Tensor:
    wide_UD = states_UD if states_UD.dtype == torch.float64 else states_UD.float()
    if pooling != "mean":
        return wide_UD
    texts = len(micro_batch.lengths_B)
    text_T = to_device(np.repeat(np.arange(texts), micro_batch.lengths_B), wide_UD.device)
    lengths_B = to_device(micro_batch.lengths_B, wide_UD.device).to(wide_UD.dtype)
    sums_BD = wide_UD.new_zeros(texts, wide_UD.shape[1]).index_add(0, text_T, wide_UD)
    return sums_BD / lengths_B[:, None]

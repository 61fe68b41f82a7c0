"""Language-model jobs for the exactness tests: tokenised rows, and the oracle's batches of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from bigbatch.build.parts import Parts
from tests.models import VOCABULARY, tiny
from tests.reference import masked
from tests.split import SMALL, Rows, Trajectory, by_oracle, parts_of

MASK, END = 4, 2
SPECIAL = (0, MASK)
"""The padding and the mask: what a tiny model's configuration and the recipe name."""
TRAINING, EVALUATION = 0x3A5C, 0xE7A1
PIECE = 24
"""Tokens of a piece or block of the causal jobs."""


def documents(count: int, *, seed: int = 0, longest: int = 60) -> Rows:
    """Rows of token ids of very uneven lengths, a special one here and there."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.0, 0.8, count), 2, longest).astype(int)
    rows = [random.integers(5, VOCABULARY, length) for length in lengths]
    for row in rows[::7]:
        row[-1] = MASK
    return [{"input_ids": row.tolist()} for row in rows]


def model_of(task: str, **config: Any) -> Any:
    """A tiny model with the task's head, tied as its family does."""
    if task == "mlm":
        return tiny("bert", head="masked", **{**SMALL, **config})
    sizes = {"n_embd": 16, "n_head": 2, "initializer_range": 0.05}
    return tiny("gpt2", head="causal", eos_token_id=END, bos_token_id=END, **{**sizes, **config})


def language_parts(module: nn.Module, rows: Rows, task: dict[str, Any], **keys: Any) -> Parts:
    """A copy of the module with the rows, ready to be trained as this task."""
    if task["name"] == "mlm":
        task = {"mask_id": MASK, **task}
    else:
        keys = {"data": {"train": [], "max_length": PIECE}, **keys}
    return parts_of(module, rows, "language", **{"task": task, "batch": 40, **keys})


def oracle_samples(rows: Rows, task: dict[str, Any]) -> list[list[int]]:
    """The token ids of each sample: rows, pieces or blocks, cut in the plainest way."""
    ids = [row["input_ids"] for row in rows]
    if task["name"] == "mlm":
        return ids
    if task.get("blocks") == "fixed":
        flat = [token for row in ids for token in row]
        return [flat[first : first + PIECE] for first in range(0, len(flat) - 1, PIECE)]
    step = PIECE - 1
    return [row[first : first + PIECE] for row in ids for first in range(0, len(row) - 1, step)]


def oracle_row(ids: list[int], task: dict[str, Any], *, seed: int, epoch: int, sample: int) -> dict[str, Any]:
    """What the model is shown of a sample, and what it has to predict."""
    if task["name"] == "clm":
        return {"ids": ids, "targets": {place: ids[place + 1] for place in range(len(ids) - 1)}}
    options = {
        name: value for name, value in task.items() if name in ("probability", "mask_share", "random_share")
    }
    key = (seed, TRAINING, epoch, sample)
    return masked(ids, SPECIAL, key=key, vocabulary=VOCABULARY, mask_id=MASK, **options)


def train_language_reference(
    module: nn.Module, parts: Parts, rows: Rows, task: dict[str, Any], updates: int, **keys: Any
) -> Trajectory:
    """The same updates by the oracle: the whole padded batch at once, no code of bigbatch beyond the order."""
    samples = oracle_samples(rows, task)

    def row_of(place: int, number: int) -> dict[str, Any]:
        epoch = place // len(samples)
        return oracle_row(samples[number], task, seed=parts.recipe.seed.data, epoch=epoch, sample=number)

    return by_oracle(module, parts, row_of, updates, kind="language", **keys)

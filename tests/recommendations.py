"""Recommendation jobs for the exactness tests: histories as token ids, cut into windows in the plainest way."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from bigbatch.build.parts import Parts
from tests.models import VOCABULARY, tiny
from tests.split import Rows, Trajectory, by_oracle, parts_of

WINDOW, STRIDE = 12, 5
TASK = {"name": "recommend", "stride": STRIDE}


def histories(count: int, *, seed: int = 0, longest: int = 50) -> Rows:
    """Items of very uneven many events; a user here and there has one alone, of which nothing is learnt."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(2.5, 0.9, count), 1, longest).astype(int)
    return [{"input_ids": random.integers(5, VOCABULARY, length).tolist()} for length in lengths]


def recommender(**config: Any) -> Any:
    """A tiny decoder, its output layer tied to the items' embedding."""
    sizes = {"n_embd": 16, "n_head": 2, "initializer_range": 0.05}
    return tiny("gpt2", head="causal", **{**sizes, **config})


def recommend_parts(module: nn.Module, rows: Rows, **keys: Any) -> Parts:
    """A copy of the module with the rows, ready to be trained."""
    keys = {"task": TASK, "batch": 24, "data": {"train": [], "max_length": WINDOW}, **keys}
    return parts_of(module, rows, "recommend", **keys)


def windows(ids: list[int], most: int = WINDOW, stride: int = STRIDE) -> list[dict[str, Any]]:
    """The windows of a history: what is read, and position -> item that is predicted there."""
    left, end, found = set(range(len(ids) - 1)), len(ids) - 1, []
    while left:
        start = max(0, end - most)
        own = {place for place in left if place >= end - stride or start == 0}
        found.append(
            {"ids": ids[start:end], "targets": {place - start: ids[place + 1] for place in sorted(own)}}
        )
        left, end = left - own, end - stride
    return found[::-1]


def train_recommend_reference(
    module: nn.Module, parts: Parts, rows: Rows, updates: int, **keys: Any
) -> Trajectory:
    """The same updates by the oracle, no code of bigbatch beyond the order."""
    samples = [window for row in rows for window in windows(row["input_ids"])]
    assert len(parts.train) == len(samples)
    return by_oracle(module, parts, lambda _, number: samples[number], updates, kind="language", **keys)

"""Ranking jobs for the exactness tests: texts of queries and candidates, and the oracle's updates by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bigbatch.build.parts import Parts
from tests.models import WORDS, tiny, tiny_tokenizer
from tests.split import Rows, Trajectory, by_oracle, parts_of

RANK_CLIP = 2e-3
"""Below the gradient norm of every update."""


def candidates(count: int, *, seed: int = 0) -> Rows:
    """A row a candidate, 1 to 8 of a query, of very uneven lengths; some queries have nothing relevant, or all alike."""
    random, rows = np.random.default_rng(seed), []
    for number in range(count):
        query = " ".join([WORDS[number % len(WORDS)], *random.choice(WORDS, int(random.integers(1, 4)))])
        for _ in range(int(random.integers(1, 9))):
            length = int(np.clip(random.lognormal(1.5, 0.8), 1, 24))
            label = 0 if number % 7 == 0 else 1 if number % 11 == 0 else int(random.integers(3)) / 2
            rows.append(
                {
                    "query": query,
                    "candidate": " ".join(random.choice(WORDS, length)),
                    "label": label,
                    "group": f"q{number}",
                }
            )
    return rows


def ranker(**config: Any) -> Any:
    """A tiny cross-encoder: without biases, which move all scores alike, so that their gradient is exactly zero."""
    return tiny("llama", num_labels=1, initializer_range=0.05, **config)


def rank_parts(module: nn.Module, rows: Rows, folder: Path, **keys: Any) -> Parts:
    """A copy of the module with the rows, ready to be trained."""
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    return parts_of(
        module, rows, "rank", tokenizer=tokenizer, **{"task": "rank", "batch": 16, "clip": RANK_CLIP, **keys}
    )


def train_rank_reference(
    module: nn.Module, parts: Parts, rows: Rows, updates: int, folder: Path, name: str
) -> Trajectory:
    """The same updates by the oracle, no code of bigbatch beyond the order."""
    tokenizer, queries = tiny_tokenizer(folder / "tokenizer"), {}
    for row in rows:
        found = tokenizer(row["query"], row["candidate"])
        own = queries.setdefault(row["group"], {"candidates": [], "relevance": []})
        own["candidates"].append({"ids": found["input_ids"], "segments": None})
        own["relevance"].append(row["label"])
    batches = list(queries.values())
    assert len(parts.train) == len(batches)
    return by_oracle(
        module, parts, lambda _, number: batches[number], updates, kind="rank", pad_id=0, rank={"name": name}
    )

"""Preference jobs for the exactness tests: rows of token ids, and the oracle's updates by them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bigbatch.build.derived import Kept, derived
from bigbatch.build.parts import Parts
from bigbatch.store.identity import Fingerprint, write_identity
from tests.models import VOCABULARY, WORDS, tiny
from tests.split import Rows, Trajectory, by_oracle, parts_of

END = 2


def preferences(count: int, *, seed: int = 0, longest: int = 24) -> Rows:
    """Prompts and two answers each, of very uneven lengths."""
    random = np.random.default_rng(seed)

    def ids(most: int) -> list[int]:
        length = int(np.clip(random.lognormal(2.0, 0.8), 1, most))
        return random.integers(5, VOCABULARY, length).tolist()

    return [{"prompt": ids(12), "chosen": ids(longest), "rejected": ids(longest)} for _ in range(count)]


def decoder(family: str = "gpt2", **config: Any) -> Any:
    """A tiny causal model."""
    sizes = {"n_embd": 16, "n_head": 2} if family == "gpt2" else {}
    return tiny(
        family,
        head="causal",
        initializer_range=0.05,
        eos_token_id=END,
        bos_token_id=END,
        **{**sizes, **config},
    )


def scorer(family: str = "llama", **config: Any) -> Any:
    """A tiny model with one output."""
    return tiny(family, num_labels=1, initializer_range=0.05, **config)


def preference_parts(module: nn.Module, rows: Rows, folder: Path, **keys: Any) -> Parts:
    """A copy of the module with the rows and its reference, ready to be trained by preferences."""
    task = {"name": "prefer", "beta": 0.5}
    parts = parts_of(module, rows, "prefer", **{"task": task, "batch": 24, **keys})
    if parts.strategy.world.rank == 0:
        write_identity(folder, Fingerprint(what={}), run_id="a")
    parts.data = derived(parts, Kept(folder, "a"))
    return parts


def train_preference_reference(
    module: nn.Module, parts: Parts, rows: Rows, updates: int, **preference: Any
) -> Trajectory:
    """The same updates by the oracle, no code of bigbatch beyond the order."""
    preference = {"start": copy.deepcopy(module).eval(), "beta": 0.5, **preference}
    return by_oracle(
        module, parts, lambda _, number: rows[number], updates, kind="prefer", pad_id=0, preference=preference
    )


def answer_rows(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Rows of text: kind words are preferred."""
    random = np.random.default_rng(seed)
    kind, unkind = ("great", "good", "best", "kind"), ("bad", "worst", "rude", "lost")
    rows = []
    for _ in range(count):
        prompt = " ".join(random.choice(WORDS, int(random.integers(2, 9))))
        answers = [
            " ".join([*random.choice(WORDS, int(random.integers(0, 6))), random.choice(words)])
            for words in (kind, unkind)
        ]
        rows.append({"prompt": str(prompt), "chosen": str(answers[0]), "rejected": str(answers[1])})
    return rows

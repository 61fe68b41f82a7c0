"""Sequences that fold, for tests: walks in space and brackets, all from integers; a small model; the oracle's updates."""

from __future__ import annotations

import json
from typing import Any

import torch

from bigbatch.build.parts import Parts
from bigbatch.model.letters import made_tokenizer
from tests.exact import numbers, uneven
from tests.models import tiny
from tests.split import SMALL, Trajectory, by_oracle, parts_of

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
CHANNELS, SEPARATION, DISTANCE = 3, 2, 8.0
TASK = {"name": "contact", "channels": CHANNELS, "separation": SEPARATION}


def fold_rows(count: int, seed: int = 0, longest: int = 40) -> list[dict[str, Any]]:
    """Proteins of very uneven lengths, whose letters are 3.8 Å or less apart and partly unknown; every fourth row RNA."""
    rows = []
    for row in range(count):
        length = uneven(seed + row, longest)
        drawn = numbers(seed + 100_000 * (row + 1), 5 * length, 2**20)
        if row % 4 == 3:
            half = length // 2
            fold: Any = "(" * half + "." * (length - 2 * half) + ")" * half
            letters = "".join("ACGU"[each % 4] for each in drawn[:length])
        else:
            place, fold = [0.0, 0.0, 0.0], []
            for letter in range(length):
                place = [each + (drawn[3 * letter + axis] % 61 - 30) / 8 for axis, each in enumerate(place)]
                fold.append(None if drawn[4 * length + letter] % 9 == 0 else place)
            letters = "".join(LETTERS[each % 20] for each in drawn[3 * length : 4 * length])
        rows.append({"id": f"s{row}", "sequence": letters, "structure": fold})
    return rows


def folder(seed: int = 0, dropout: float = 0.0) -> Any:
    """A small BERT that gives numbers of letters."""
    return tiny(
        "bert", head="tokens", seed=seed, dropout=dropout, num_labels=4 * CHANNELS, pad_token_id=1, **SMALL
    )


def fold_parts(
    module: Any, rows: list[dict[str, Any]], *, micro_tokens: int, packing: str, **keys: Any
) -> Parts:
    """Ready to be trained in this split."""
    settings = {"task": TASK, "data": {"train": [], "max_length": 64}, "batch": 24, **keys}
    return parts_of(
        module, rows, "single", micro_tokens=micro_tokens, packing=packing,
        tokenizer=made_tokenizer("letters"), **settings,
    )  # fmt: skip


def train_fold_oracle(module: Any, parts: Parts, rows: list[dict[str, Any]], updates: int) -> Trajectory:
    """The same updates by the oracle."""
    tokenizer = made_tokenizer("letters")

    def row_of(place: int, number: int) -> dict[str, Any]:
        del place
        row = rows[number]
        shown: dict[str, Any] = {"ids": tokenizer(row["sequence"])["input_ids"], "target": 0}
        if isinstance(row["structure"], str):
            half = len(row["structure"]) // 2
            return {**shown, "pairs": [{at, len(row["structure"]) - 1 - at} for at in range(half)]}
        points = torch.tensor([each or [0.0] * 3 for each in row["structure"]], dtype=torch.float32).tolist()
        known = zip(points, row["structure"], strict=True)
        return {**shown, "points": [None if each is None else point for point, each in known]}

    contact = {"distance": DISTANCE, "separation": SEPARATION}
    return by_oracle(module, parts, row_of, updates, kind="contact", pad_id=1, contact=contact)


def as_lines(rows: list[dict[str, Any]]) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)

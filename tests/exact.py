"""Rows and weights that are the same on every machine: integers of splitmix64, nobody else's random numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from bigbatch.data.order import splitmix64
from tests.models import VOCABULARY, WORDS


def numbers(seed: int, count: int, below: int) -> list[int]:
    """Integers from 0 to below - 1."""
    return [int(value) % below for value in splitmix64(seed, count=count)]


def uneven(seed: int, longest: int) -> int:
    """A length from 2 to `longest`, mostly short."""
    return 2 + math.prod(numbers(seed, 2, 8)) % (longest - 1)


def exact_weights(module: nn.Module) -> nn.Module:
    """The module, its matrices multiples of 2**-12: exact in every precision."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            if parameter.ndim > 1:
                values = torch.tensor(numbers(seed, parameter.numel(), 1025)) - 512
                parameter.copy_(values.reshape(parameter.shape) / 4096)
    return module


def exact_documents(count: int, seed: int, longest: int = 40) -> list[list[int]]:
    """Rows of token ids from 5 on: those below are special to one task or another."""
    return [
        [5 + token for token in numbers(seed + 1000 + row, uneven(seed + row, longest), VOCABULARY - 5)]
        for row in range(count)
    ]


def exact_preferences(count: int, seed: int) -> list[dict[str, list[int]]]:
    """Rows of token ids: a prompt and two answers."""
    columns = (exact_documents(count, seed + shift, 20) for shift in (0, 7000, 9000))
    return [
        dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in zip(*columns, strict=True)
    ]


def exact_texts(count: int, seed: int) -> list[dict[str, str]]:
    """Pairs of a query of a few words and a document of many, every third with a negative; some documents twice."""

    def text(seed: int, longest: int) -> str:
        return " ".join(WORDS[word] for word in numbers(seed, uneven(seed + 1, longest), len(WORDS)))

    rows: list[dict[str, Any]] = []
    for first in range(seed, seed + 10 * count, 10):
        row = {"query": text(first, 8), "document": text(first + 2, 24)}
        if len(rows) % 3 == 0:
            row["negative"] = text(first + 4, 24)
        if len(rows) % 7 == 6:
            row["document"] = rows[-2]["document"]
        rows.append(row)
    return rows

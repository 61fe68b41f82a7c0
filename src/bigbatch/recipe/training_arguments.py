"""From Hugging Face's `TrainingArguments` to a recipe: attributes in, keys and notes out."""

from __future__ import annotations

from typing import Any


def translate(args: Any) -> tuple[dict[str, Any], list[str]]:
    """The recipe's keys and notes for `args`, read by attribute."""
    return {}, []

"""The plan as lines for people: what, how much, why, and who said so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bigbatch.plan.frozen import Plan
from bigbatch.records import Choice
from bigbatch.units import show_bytes

_SAID_BY = {"user": "you", "default": "default", "derived": "arithmetic", "measured": "measured"}
_NAMES = {
    "auto_batch": "batch (auto)",
    "auto_epochs": "epochs (auto)",
    "auto_lr": "rate (auto)",
    "micro_tokens": "micro-batch",
    "learning_rate": "learning rate",
    "padding_share": "padding",
    "last_block": "last block",
    "embedding_gradients": "embedding gradients",
    "dropout_masks": "dropout masks",
    "recomputed_blocks": "recomputed blocks",
    "evaluation_micro_tokens": "evaluation micro-batch",
    "peak_memory_bytes": "peak memory",
    "noise_scale": "noise scale",
    "keep_fp32": "kept in fp32",
    "precision_audit": "precision audit",
    "train_seconds": "training time",
    "evaluate_seconds": "evaluation time",
}


def explain(plan: Plan, notes: Sequence[str] = ()) -> list[str]:
    """One line a choice, columns aligned, warnings and notes at the end.

    Example:
        `micro-batch     1,024 tokens   measured    the smallest of the fastest tried: 8,100 tokens/s at 512, …`
    """
    rows = [
        (_NAMES.get(name, name), shown(name, choice), _SAID_BY[choice.source], choice.reason)
        for name, choice in plan.choices.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row[3]])
        for row in rows
    ]
    warnings = [f"warning: {warning}" for warning in plan.warnings]
    return [*lines, *warnings, *(f"note: {note}" for note in notes)]


def shown(name: str, choice: Choice) -> str:
    """The value of one choice as a person reads it: `1,024 tokens`, `1.3 GiB`, `0.4 %`."""
    if name == "peak_memory_bytes" and choice.prediction is not None:
        return show_bytes(choice.prediction)
    if name == "padding_share":
        return f"{100 * choice.value:.1f} %"
    if name == "keep_fp32" and not choice.value:
        return "by role"
    text = _number(choice.value)
    return f"{text} {choice.unit}" if choice.unit in ("tokens", "micro-batches an update") else text


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"

"""The plan as lines for people: what, how much, why, and who said so."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from bigbatch.facts import Choice
from bigbatch.plan.frozen import Plan
from bigbatch.units import show_bytes

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
    "products": "matrix products",
    "recomputed_blocks": "recomputed blocks",
    "evaluation_micro_tokens": "evaluation micro-batch",
    "peak_memory_bytes": "peak memory",
    "noise_scale": "noise scale",
    "keep_fp32": "kept in fp32",
    "precision_audit": "precision audit",
    "train_seconds": "training time",
    "evaluate_seconds": "evaluation time",
    "derive_seconds": "reference time",
}


def explain(plan: Plan, notes: Sequence[str] = (), width: int | None = None) -> list[str]:
    """One line a choice, columns aligned, warnings and notes at the end.

    Args:
        plan: what is explained.
        notes: on data and model.
        width: of the terminal: longer reasons go on below themselves; None: lines stay whole.

    Example:
        `micro-batch   1,024 tokens   measured   the smallest within 3% of the fastest tried: 8,100 tokens/s at 512, …`
    """
    rows = [
        (_NAMES.get(name, name), shown(name, choice), choice.source, choice.reason)
        for name, choice in plan.choices.items()
    ]
    return [*_laid(rows, width), *_said(plan, notes, width)]


_BRIEF = ("updates", "learning_rate", "train_seconds", "peak_memory_bytes")


def brief(
    plan: Plan, facts: Sequence[tuple[str, str]], notes: Sequence[str] = (), width: int | None = None
) -> list[str]:
    """What a newcomer asks: what, how long, how much memory, on what; and anything unusual. Warnings and notes stay.

    Args:
        plan: all choices; `explain` has them with their reasons.
        facts: (name, words) of what no plan knows, such as model and data.
        notes: on data and model.
        width: as for `explain`.
    """
    choices = plan.choices
    rows = list(facts)
    for name in (name for name in _BRIEF if name in choices):
        words = [shown(name, choices[name])]
        if name == "updates":
            words = [choices[name].reason]
        elif name == "learning_rate":
            # A rate that was left to the run: why it is this one, not how it was scaled.
            words.append(f"({choices.get('auto_lr', choices[name]).reason})")
        elif name == "train_seconds" and "evaluate_seconds" in choices:
            words.append(
                f"and {shown('evaluate_seconds', choices['evaluate_seconds'])} of evaluation, predicted"
            )
        rows.append(("length" if name == "updates" else _NAMES.get(name, name), " ".join(words)))
    rows.append(("machine", _machine(plan)))
    return [*_laid(rows, width), *_said(plan, notes, width)]


def _machine(plan: Plan) -> str:
    """`cpu, 2 threads, fp32, packed micro-batches of 1,024 tokens`."""
    choices = plan.choices
    words = [str(choices["device"].value)] if "device" in choices else []
    for name, one in (("ranks", "rank"), ("threads", "thread")):
        count = choices[name].value if name in choices else 1
        if count != 1 or name == "threads":
            words.append(f"{count} {one}{'' if count == 1 else 's'}")
    words += [str(choices["precision"].value)] if "precision" in choices else []
    cut = (
        f"micro-batches of {shown('micro_tokens', choices['micro_tokens'])}"
        if "micro_tokens" in choices
        else ""
    )
    packing = str(choices["packing"].value) if "packing" in choices else ""
    return ", ".join([*words, f"{packing} {cut}".strip()])


def _said(plan: Plan, notes: Sequence[str], width: int | None) -> list[str]:
    """Warnings and notes."""
    lines = [("warning: ", warning) for warning in plan.warnings] + [("note: ", note) for note in notes]
    return [line for head, text in lines for line in hanging(head, text, width)]


def _laid(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Rows with all columns but the last aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    heads = [
        "".join(f"{text.ljust(room)}  " for text, room in zip(row, widths, strict=False)) for row in rows
    ]
    return [line for head, row in zip(heads, rows, strict=True) for line in hanging(head, row[-1], width)]


_LEAST_ROOM = 30
"""Letters beside a head, below which text begins on a line of its own."""


def hanging(head: str, text: str, width: int | None) -> list[str]:
    """A head and its text, which goes on below itself where a line ends.

    Args:
        head: what stands in front of the first line.
        text: is broken between words.
        width: letters of a line; None: one line, however long.

    Example:
        >>> hanging("warning: ", "only 4 updates are few", 24)
        ['warning:', '    only 4 updates are', '    few']
        >>> hanging("note: ", "only four updates are few for a schedule", 40)
        ['note: only four updates are few for a', '      schedule']
    """
    if width is None or len(head) + len(text) <= width:
        return [head + text]
    beside = width - len(head) >= _LEAST_ROOM
    indent = " " * (len(head) if beside else 4)
    first = head if beside else indent
    lines = wrap(
        text,
        max(width, len(indent) + 10),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines if beside else [head.rstrip(), *lines]


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


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"

"""Running text, whose lines break sentences (verse, wrapped prose, source code), told from a document a line.

A line is broken where the next one carries its sentence on. Three signs, each of which documents lack:

- it ends in a comma, a semicolon, a dash: verse, dialogue, code;
- it ends without a stop and the next begins in lower case, while lines behind a stop begin with a capital;
- it ends without a stop, and nearly all such lines are as wide as the widest: prose wrapped at a width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bigbatch.data.language import count_words

_STOPS = tuple(".!?…。！？｡؟।")
_JOINERS = tuple(",;:-–—，；：、")
_CLOSERS = "\"'”’»)]」』）"
STRETCHES, STRETCH_ROWS = 4, 500
"""How many lines are looked at: so many stretches of so many lines."""
_FEWEST_LINES = 20
_BROKEN = 0.25
"""Share of broken lines from which a text is running; of titles and tweets less than half as many seem broken."""
_LONGEST_WORDS = 40
"""Mean words of a line from which each is a document, however it ends."""


def running_share(stretches: Sequence[Sequence[str]]) -> float | None:
    """Share of lines that the next one carries on, where that makes them lines of a running text; else None.

    Args:
        stretches: lines one behind the other as in the file, from several places of it.

    Example:
        >>> running_share([["Shall I compare thee to a summer's day?", "Thou art more lovely,"] * 10])
        0.5
    """
    found = [[line.strip() for line in lines if line.strip()] for lines in stretches]
    lines = [line for stretch in found for line in stretch]
    if len(lines) < _FEWEST_LINES or np.mean([count_words(line) for line in lines]) > _LONGEST_WORDS:
        return None
    ends = [line.rstrip(_CLOSERS) or line for line in lines]
    joined = np.array([end.endswith(_JOINERS) for end in ends])
    open_ended = ~np.array([end.endswith(_STOPS) for end in ends])
    lower = np.array([line[0].islower() for line in lines])
    share = float((joined | _carried_on(open_ended, lower)).mean())
    if share < _BROKEN and _at_one_width(
        [line for line, is_open in zip(lines, open_ended, strict=True) if is_open]
    ):
        share = float(open_ended.mean())
    return share if share >= _BROKEN else None


def _carried_on(open_ended: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Lines without a stop before one in lower case, where case says something: behind a stop it is rare."""
    before, after = open_ended[:-1], lower[1:]
    carried = np.append(before & after, False)
    if not before.any() or before.all() or after[~before].mean() > after[before].mean() / 3:
        return np.zeros_like(carried)
    return carried


def _at_one_width(lines: Sequence[str]) -> bool:
    """Whether lines without a stop nearly fill one width, as wrapped prose does."""
    widths = np.array([len(line) for line in lines])
    # Chains of letters without blanks (peptides, hashes) have one width for another reason.
    blanks = np.mean([" " in line or count_words(line) > 5 for line in lines]) if len(lines) else 0.0
    if len(lines) < _FEWEST_LINES // 2 or blanks < 0.9:
        return False
    widest = float(np.percentile(widths, 95))
    dense = sum(map(count_words, lines)) > widths.sum() / 3  # Chinese and the like need few characters a line
    return widest >= (15 if dense else 40) and float((widths >= 0.8 * widest).mean()) >= 0.8

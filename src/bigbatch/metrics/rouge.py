"""ROUGE-L of written texts: how much of the wanted text's words they have, in its order.

::

    lcs = length of the longest common subsequence of the two texts' words
    F1 = 2 lcs / (words written + words wanted), of each text; the figure is 100 times their mean

`rouge_lsum` looks at sentences: of each wanted one, the words that any written one has in common with it in order, a
word no oftener than either text has it. Texts are divided at their line breaks, or, where they have none, behind `.`,
`!` and `?`. A word is a run of letters and digits in lower case; of scripts without spaces, such as Chinese, a
character. Of longer texts the first `MOST_WORDS` count.

Reference: Lin, "ROUGE: a package for automatic evaluation of summaries", 2004.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from typing_extensions import override

from bigbatch.metrics.bleu import WrittenMetric
from bigbatch.metrics.figures import Undefined

MOST_WORDS = 2000
"""Bounds the table of two texts at 4 million entries."""
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
"""Scripts that are written without spaces."""
_WORD = re.compile(f"[{_ALONE}]|[^\\W_{_ALONE}]+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def words_of(text: str) -> list[str]:
    """The words of a text.

    Example:
        >>> words_of("It's 打开 open_file"), words_of("…")
        (['it', 's', '打', '开', 'open', 'file'], [])
    """
    return _WORD.findall(text.lower())[:MOST_WORDS]


def sentences_of(text: str) -> list[list[str]]:
    """The words of each sentence; those without any are none.

    Example:
        >>> sentences_of("One. Two is!")
        [['one'], ['two', 'is']]
    """
    parts = text.split("\n") if "\n" in text.strip() else _SENTENCE.split(text)
    found, left = [], MOST_WORDS
    for words in map(words_of, parts):
        if words[:left]:
            found.append(words[:left])
            left -= len(words[:left])
    return found


def common(written: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Places in `wanted` of a longest common subsequence, ascending.

    Example:
        >>> common(["the", "cat", "sat"], ["the", "old", "cat"])
        [0, 2]
    """
    numbers = {word: number for number, word in enumerate(dict.fromkeys(chain(written, wanted)))}
    ours = np.array([numbers[word] for word in written], np.int64)
    theirs = np.array([numbers[word] for word in wanted], np.int64)
    table = np.zeros((len(theirs) + 1, len(ours) + 1), np.int32)
    for row, word in enumerate(theirs, start=1):
        before = table[row - 1]
        np.maximum.accumulate(np.maximum(before[1:], before[:-1] + (ours == word)), out=table[row, 1:])
    places, row, column = [], len(theirs), len(ours)
    while row and column:
        if theirs[row - 1] == ours[column - 1]:
            places.append(row - 1)
            row, column = row - 1, column - 1
        elif table[row, column - 1] > table[row - 1, column]:
            column -= 1
        else:
            row -= 1
    return places[::-1]


def rouge_l(written: str, wanted: str) -> float:
    """F1 of two texts, from 0 to 1; 1 where neither has a word.

    Example:
        >>> rouge_l("the cat sat", "the old cat")
        0.6666666666666666
    """
    ours, theirs = words_of(written), words_of(wanted)
    return _f1(len(common(ours, theirs)), len(ours), len(theirs))


def rouge_lsum(written: str, wanted: str) -> float:
    """F1 of the sentences of two texts, from 0 to 1; 1 where neither has a word."""
    ours, theirs = sentences_of(written), sentences_of(wanted)
    left = [Counter(chain.from_iterable(each)) for each in (ours, theirs)]
    hits = 0
    for sentence in theirs:
        for place in sorted({place for own in ours for place in common(own, sentence)}):
            word = sentence[place]
            if all(counts[word] > 0 for counts in left):
                hits += 1
                for counts in left:
                    counts[word] -= 1
    return _f1(hits, sum(map(len, ours)), sum(map(len, theirs)))


def _f1(hits: int, written: int, wanted: int) -> float:
    if not written and not wanted:
        return 1.0
    return 2 * hits / (written + wanted)


@dataclass(frozen=True, kw_only=True)
class Rouge(WrittenMetric):
    """A mean over texts, from 0 to 100."""

    @override
    def of_texts(self, written: Sequence[str], wanted: Sequence[str]) -> tuple[np.ndarray, str]:
        """Sum over some texts and their number (2,) float64, and how words were told apart."""
        rows_N = self.rows(written, wanted)
        return np.array([math.fsum(rows_N), len(rows_N)]), "words, characters of scripts without spaces"

    @override
    def value(self, state: tuple[np.ndarray, str] | None) -> float:
        """The figure."""
        if state is None or not state[0][1]:
            return Undefined("no text was written")
        return float(state[0][0] / state[0][1])

    @override
    def signature(self, state: tuple[np.ndarray, str]) -> str:
        """In words of our own: there is no usual form."""
        return f"{self.name} f1|mean over texts|lower case|{state[1]}|no stemming"

    @override
    def rows(self, written: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
        """Of each text (N,) float64."""
        one = rouge_l if self.name == "rouge_l" else rouge_lsum
        return 100 * np.array([one(*pair) for pair in zip(written, wanted, strict=True)], np.float64)

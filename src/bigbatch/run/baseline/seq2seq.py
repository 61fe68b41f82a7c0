"""Baselines of written texts: what no model is needed for.

::

    copied_source     the source itself, where targets are about as long as sources (a translation keeps names, numbers)
    lead_1, lead_3    its first sentences, where targets are far shorter (a summary): hard to beat on news
    nearest_target    the target of the training source that is most like it: cosine of TF-IDF

They are scored by the figures of texts alone: they give no token a probability.

Reference: the lead of an article as a summary: Nenkova, "Automatic text summarization of newswire", AAAI 2005.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bigbatch.run.baseline.features import CHARACTERS, WORDS, Bag
from bigbatch.run.baseline.match import TooLarge
from bigbatch.run.baseline.model import Baseline, Split, spread, written

COPIED, NEAREST, LEADS = "copied_source", "nearest_target", {"lead_1": 1, "lead_3": 3}
_SUMMARY = 3.0
"""From so many times its target's letters on a source is one that is summarised."""
_MOST_ROWS = 50_000
"""Training rows that are searched."""
_WITH_CHARACTERS = 1_000_000
"""Characters of the sources up to which n-grams of characters are features, too."""
_MOST_PRODUCTS = 60_000_000_000
_ENTRIES_A_CHARACTER = {True: 3.5, False: 0.4}
_AT_A_TIME = 256
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


def seq2seq_baselines(train: Split, seconds: float) -> Iterator[Baseline]:
    """Those of `task: seq2seq`; none for rows of token ids. `train`: where the nearest target is looked for."""
    sources, targets = texts_of(train, "source"), texts_of(train, "target")
    if not sources:
        return
    ratio = sum(map(len, sources)) / max(1, sum(map(len, targets)))
    if ratio >= _SUMMARY:
        for name, count in LEADS.items():
            yield written(
                name, lambda split, count=count: [lead(text, count) for text in texts_of(split, "source")]
            )
    else:
        yield written(COPIED, lambda split: texts_of(split, "source"))
    kept = spread(len(sources), _MOST_ROWS)
    note = f"searched {len(kept):,} of {len(sources):,} rows" if len(kept) < len(sources) else ""
    known = [sources[int(row)] for row in kept]
    wide = sum(map(len, known)) <= _WITH_CHARACTERS
    bag = Bag([known], (WORDS, CHARACTERS) if wide else (WORDS,), most=100_000)

    def nearest(split: Split) -> list[str]:
        asked = texts_of(split, "source")
        products = len(asked) * sum(map(len, known)) * _ENTRIES_A_CHARACTER[wide]
        if products > _MOST_PRODUCTS * max(1.0, seconds / 30):
            raise TooLarge(f"{len(asked):,} sources against {len(known):,}")
        found = []
        for first in range(0, len(asked), _AT_A_TIME):
            scores = bag([asked[first : first + _AT_A_TIME]]) @ bag.learnt_from.T
            found += [targets[int(kept[row])] for row in scores.argmax(1).tolist()]
        return found

    yield written(NEAREST, nearest, note)


def lead(text: str, sentences: int) -> str:
    """The first sentences of a text.

    Example:
        >>> lead("One. Two! Three.", 2)
        'One. Two!'
    """
    parts = [part for part in _SENTENCE.split(text) if part.strip()]
    end = 0
    for part in parts[:sentences]:
        end = text.index(part, end) + len(part)
    return text[:end].strip()


def texts_of(split: Split, role: str) -> Sequence[str]:
    """The texts of a column, row by row; none where rows are token ids."""
    if role not in split.rows.rows.column_names:
        return []
    return [text or "" for text in split.rows.rows.column(role).to_pylist()]

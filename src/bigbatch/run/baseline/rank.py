"""The baseline of ranking: Okapi BM25 of the query's words in each candidate (Robertson et al. 1994).

    score = sum over words of the query  idf(word)  tf (k + 1) / (tf + k (1 - b + b length / mean length))

with k 1.2 and b 0.75.

The candidates of training are what idf = ln(1 + (N - n + 0.5) / (n + 0.5)) and the mean length are counted on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from bigbatch.data.lists import CANDIDATE, QUERY
from bigbatch.run.baseline.features import WORD
from bigbatch.run.baseline.model import Baseline, Split
from bigbatch.samples import Predictions

BM25 = "bm25"
_K, _B = 1.2, 0.75
_MOST_CHARACTERS = 24_000_000
"""Of training candidates that are counted."""


def rank_baselines(train: Split) -> Iterator[Baseline]:
    """Those of `task: rank`.

    Args:
        train: queries and their candidates.
    """
    rows: Counter[str] = Counter()
    count, total, characters = 0, 0, 0
    for own in train.rows.rows.column(CANDIDATE).to_pylist():
        for text in own:
            words = _words(text)
            rows.update(set(words))
            count, total, characters = count + 1, total + len(words), characters + len(text)
        if characters > _MOST_CHARACTERS:
            break
    mean = total / max(1, count)
    idf = {word: math.log(1 + (count - known + 0.5) / (known + 0.5)) for word, known in rows.items()}
    unseen = math.log(1 + (count + 0.5) / 0.5)

    def score(query: list[str], text: str) -> float:
        words = Counter(_words(text))
        norm = _K * (1 - _B + _B * sum(words.values()) / max(mean, 1e-9))
        return sum(idf.get(word, unseen) * words[word] * (_K + 1) / (words[word] + norm) for word in query)

    def outputs(split: Split) -> Predictions:
        found: list[float] = []
        columns = (split.rows.rows.column(name).to_pylist() for name in (QUERY, CANDIDATE))
        for query, candidates in zip(*columns, strict=True):
            words = _words(query)
            found += [score(words, text) for text in candidates]
        scores = np.array(found)
        return Predictions(kind="language", scores=scores[:, None], probabilities=None, values=scores)

    yield Baseline(name=BM25, outputs=outputs)


def _words(text: str) -> list[str]:
    return [word for word in WORD.findall(text.lower()) if word[0].isalnum()]

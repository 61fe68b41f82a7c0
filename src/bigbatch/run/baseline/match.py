"""The baseline of matching: documents ranked by the cosine of their TF-IDF with the query's.

Document frequencies are those of the split itself, as a search engine has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bigbatch.data.texts import OWNER, ROLE
from bigbatch.run.baseline.features import CHARACTERS, WORDS, Bag
from bigbatch.run.baseline.model import Baseline, Split
from bigbatch.samples import Predictions
from bigbatch.tasks.match import ROLES

_WITH_CHARACTERS = 1_000_000
"""Characters of a split up to which n-grams of characters are features, too."""
_MOST_PRODUCTS = 60_000_000_000
"""Entries of the corpus times queries: half a minute of them."""
_ENTRIES_A_CHARACTER = {True: 3.5, False: 0.4}


def match_baselines(seconds: float) -> Iterator[Baseline]:
    """That of `task: match`."""
    yield Baseline(name="tf_idf", outputs=lambda split: _ranked(split, seconds))


def _ranked(split: Split, seconds: float) -> Predictions:
    """Sparse embeddings of all texts of a split.

    Raises:
        TooLarge: ranking them would take too long.
    """
    texts = _texts(split)
    characters = sum(map(len, texts))
    queries = int((np.asarray(split.table.values)[:, ROLE] == 0).sum())
    wide = characters <= _WITH_CHARACTERS
    products = queries * characters * _ENTRIES_A_CHARACTER[wide]
    if products > _MOST_PRODUCTS * max(1.0, seconds / 30):
        raise TooLarge(f"{queries:,} queries against {len(texts):,} texts")
    bag = Bag([texts], (WORDS, CHARACTERS) if wide else (WORDS,), most=100_000)
    # Metrics ask for rows, lengths and products, which these have.
    scores: Any = bag.learnt_from
    return Predictions(kind="embedding", scores=scores, probabilities=None, values=np.zeros(len(texts), bool))


class TooLarge(Exception):
    """A split that cannot be scored in the time that there is."""


def _texts(split: Split) -> list[str]:
    """The text of each unit, in the order of the table of texts: those of a row as it has them, row after row."""
    columns = [name for name in ROLES if name in split.rows.rows.column_names]
    of_role = {ROLES.index(name): split.rows.rows.column(name).to_pylist() for name in columns}
    values = np.asarray(split.table.values)
    pairs = zip(values[:, ROLE].tolist(), values[:, OWNER].tolist(), strict=True)
    return [of_role[role][row] or "" for role, row in pairs]

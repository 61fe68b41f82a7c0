from __future__ import annotations

import numpy as np
import pytest

from bigbatch.data.lengths import length_facts, padding_share
from tests.data.tables import token_rows


def test_facts_of_known_lengths():
    facts = length_facts(token_rows(list(range(1, 101))))
    assert (facts.samples, facts.tokens, facts.longest, facts.truncated_samples) == (100, 5050, 100, 0)
    assert facts.percentiles["p50"] == pytest.approx(50.5)
    assert facts.percentiles["p99"] == pytest.approx(99.01)
    assert 0.3 < facts.padding_share_random < 0.6


def test_padding_share_by_hand():
    # batches (1, 3), (2, 2), (4): computed 6 + 4 + 4, real 12
    assert padding_share(np.array([1, 3, 2, 2, 4]), 2) == pytest.approx(1 - 12 / 14)
    assert padding_share(np.full(64, 9), 32) == 0


def test_an_empty_table_has_no_lengths():
    facts = length_facts(token_rows([]))
    assert (facts.samples, facts.tokens, facts.longest, facts.padding_share_random) == (0, 0, 0, 0.0)

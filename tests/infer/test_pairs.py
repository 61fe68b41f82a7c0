"""Evaluations of preferences count pairs, as updates do."""

from __future__ import annotations

import numpy as np

from bigbatch.data.tokens import as_table
from bigbatch.infer.evaluate import judged
from bigbatch.tasks.derived import promised
from bigbatch.tasks.prefer import Prefer
from tests.preferences import preferences


def test_a_pair_is_one_sample_of_an_evaluation():
    task = Prefer()
    table = promised(task.fixed(as_table(task.encode_batch(preferences(5), None))), task.needs)
    found = judged(task, table, np.zeros((len(table.reads), 1)))
    assert (len(table), found.samples) == (10, 5)

"""What preferences are held against: length, and what the starting model finds likelier."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.jobs import document, exhaust, start
from tests.preferences import decoder, preferences

ROWS, HELD_OUT = preferences(40), preferences(31, seed=1)


def half_of_ties(margins) -> float:
    return float(np.mean((np.sign(margins) + 1) / 2))


def test_the_longer_answer_and_the_starting_model(tmp_path):
    keys = {"task": "prefer", "batch": 12, "plan.micro_tokens": 96}
    exhaust(start(tmp_path / "run", decoder(), rows=ROWS, validation=HELD_OUT, set=keys))
    found = document(tmp_path / "run", "baseline.json")["figures"]
    lengths = [len(row["chosen"]) - len(row["rejected"]) for row in HELD_OUT]
    assert found["longer_answer"]["validation"] == {"accuracy": pytest.approx(half_of_ties(lengths))}
    model, sums = decoder(), []
    with torch.no_grad():
        for row in HELD_OUT:
            both = []
            for side in ("chosen", "rejected"):
                ids = torch.tensor([row["prompt"] + row[side]])
                logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
                first = len(row["prompt"]) - 1
                both.append(sum(float(logp[first + at, token]) for at, token in enumerate(row[side])))
            sums.append(both[0] - both[1])
    assert found["starting_model"]["validation"]["accuracy"] == pytest.approx(half_of_ties(sums))

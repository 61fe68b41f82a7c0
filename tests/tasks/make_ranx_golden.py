"""Writes `ranx_golden.json`: scores, relevant documents, and what ranx makes of them.

pip install ranx && python tests/tasks/make_ranx_golden.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

CASES = 12
NAMES = ("recall@1", "recall@5", "recall@10", "mrr@1", "mrr@10", "ndcg@3", "ndcg@10")


def case(number: int) -> dict[str, Any]:
    """Distinct scores of all documents for each query; one to four documents are relevant."""
    from ranx import Qrels, Run, evaluate

    chance = random.Random(number)
    queries, documents = chance.randint(1, 12), chance.randint(12, 40)
    scores = [[round(chance.uniform(-1, 1), 6) for _ in range(documents)] for _ in range(queries)]
    relevant = [sorted(chance.sample(range(documents), chance.randint(1, 4))) for _ in range(queries)]
    qrels = Qrels({f"q{q}": {f"d{d}": 1 for d in found} for q, found in enumerate(relevant)})
    run = Run({f"q{q}": {f"d{d}": score for d, score in enumerate(row)} for q, row in enumerate(scores)})
    figures = {name: float(evaluate(qrels, run, name)) for name in NAMES}
    return {"scores": scores, "relevant": relevant, "expected": figures}


if __name__ == "__main__":
    place = Path(__file__).with_name("ranx_golden.json")
    place.write_text(json.dumps([case(number) for number in range(CASES)]) + "\n", encoding="utf-8")

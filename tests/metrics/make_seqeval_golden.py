"""Writes `seqeval_golden.json`: tag sequences and what seqeval makes of them in its default mode.

pip install seqeval==1.2.2 && python tests/metrics/make_seqeval_golden.py
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

CASES = 30


def sentence(chance: random.Random, tags: list[str], words: int) -> list[str]:
    """Tags in any order: most of these sentences break the rules of IOB2."""
    return [chance.choice(tags) for _ in range(words)]


def changed(chance: random.Random, tags: list[str], truth: list[str], share: float) -> list[str]:
    return [chance.choice(tags) if chance.random() < share else tag for tag in truth]


def case(number: int) -> dict[str, Any]:
    from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

    chance = random.Random(number)
    prefixes = "BI" if number % 3 else "BIES"
    types = ["PER", "LOC", "ORG-X"][: 1 + number % 3]
    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in types)]
    truth = [sentence(chance, tags, chance.randint(1, 9)) for _ in range(chance.randint(1, 8))]
    found = [changed(chance, tags, row, 0.3) for row in truth]
    figures = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    expected = {name: float(figure(truth, found)) for name, figure in figures.items()}
    for average in ("micro", "macro", "weighted"):
        for name, figure in figures.items():
            expected[f"{name}_{average}"] = float(figure(truth, found, average=average))
    report = classification_report(truth, found, output_dict=True)
    each = {kind: row for kind, row in report.items() if not kind.endswith(" avg")}
    names = {"precision": "precision", "recall": "recall", "f1-score": "f1"}
    for kind, row in each.items():
        expected |= {f"{ours}_{kind}": float(row[theirs]) for theirs, ours in names.items()}
    return {"true": truth, "found": found, "expected": expected}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    lines = [json.dumps(case(number)) for number in range(CASES)]
    place = Path(__file__).with_name("seqeval_golden.json")
    place.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")

"""ROUGE-1, ROUGE-2 and ROUGE-L (F1, in percent) of written headings, and of the first sentence and the first three.

python scores.py                    # what the first sentences give
python scores.py headings.jsonl     # a file of `bigbatch predict`, too
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bigbatch.metrics.rouge import rouge_l, words_of

TEST = Path(__file__).resolve().parent / "data" / "test.csv"


def overlap(written: Sequence[object], wanted: Sequence[object]) -> float:
    """F1 of what both have, each as often as either has it; 0 where one of them has nothing."""
    both = (Counter(written) & Counter(wanted)).total()
    return 2 * both / (len(written) + len(wanted)) if both else 0.0


def rouge(written: str, wanted: str) -> tuple[float, float, float]:
    """ROUGE-1, ROUGE-2, ROUGE-L of one text, from 0 to 1.

    Example:
        >>> rouge("the page style", "page style")
        (0.8, 0.6666666666666666, 0.8)
    """
    ours, theirs = words_of(written), words_of(wanted)
    return (
        overlap(ours, theirs),
        overlap(list(pairwise(ours)), list(pairwise(theirs))),
        rouge_l(written, wanted),
    )


def lead(text: str, sentences: int) -> str:
    """The first sentences."""
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[:sentences])


def main() -> None:
    """Print a row of a table for each."""
    with TEST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ways = {f"lead-{count}": [lead(row["text"], count) for row in rows] for count in (1, 3)}
    for name in sys.argv[1:]:
        with Path(name).open(encoding="utf-8") as file:
            ways[name] = [json.loads(line)["text"] for line in file]
    print("| | ROUGE-1 | ROUGE-2 | ROUGE-L |\n|---|---|---|---|")
    for name, written in ways.items():
        each = [rouge(text, row["heading"]) for text, row in zip(written, rows, strict=True)]
        figures = (f"{100 * statistics.mean(one):.1f}" for one in zip(*each, strict=True))
        print(f"| {name} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()

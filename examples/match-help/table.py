"""Recall by batch, from `bigbatch sweep small.yaml`, beside TF-IDF and the models before training; as Markdown.

python prepare.py
bigbatch sweep small.yaml --over batch.samples=16,64,256,1024 --over seed=0,1 --name small --drop-weights
python table.py
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

HERE = Path(__file__).resolve().parent
FIGURES = ("recall@1", "recall@10", "mrr@10")


def pairs(split: str) -> list[tuple[str, str]]:
    """(query, document) of a split."""
    with (HERE / "data" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [(row["query"], row["document"]) for row in csv.DictReader(file)]


def tfidf() -> dict[str, float]:
    """Words and pairs of words, cosine; fitted on the training documents."""
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit([row[1] for row in pairs("train")])
    test = pairs("test")
    documents = list(dict.fromkeys(document for _, document in test))
    right: dict[str, set[int]] = defaultdict(set)
    for query, document in test:
        right[query].add(documents.index(document))
    corpus: csr_matrix = words.transform(documents)
    found: dict[str, list[float]] = defaultdict(list)
    for query, relevant in right.items():
        scores = (corpus @ words.transform([query]).T).toarray()[:, 0]
        ranks = {place: rank for rank, place in enumerate(np.argsort(-scores, kind="stable")[:10], start=1)}
        hits = [ranks[place] for place in relevant if place in ranks]
        found["recall@10"].append(len(hits) / len(relevant))
        found["recall@1"].append(sum(rank == 1 for rank in hits) / len(relevant))
        found["mrr@10"].append(1 / min(hits) if hits else 0.0)
    return {name: statistics.mean(values) for name, values in found.items()}


def spread(values: list[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Print the table."""
    print(f"| | updates | {' | '.join(FIGURES)} |\n|---|---|{'---|' * len(FIGURES)}")
    baseline = tfidf()
    print(f"| TF-IDF | | {' | '.join(f'{baseline[name]:.3f}' for name in FIGURES)} |")
    path = HERE / "sweeps" / "small" / "results.csv"
    rows = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    batches: dict[int, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row.get("test.recall@10"):
            batches[int(row["batch.samples"])].append(row)
    for batch, own in sorted(batches.items()):
        cells = [spread([float(row[f"test.{name}"]) for row in own]) for name in FIGURES]
        print(f"| batch {batch:,} | {own[0]['updates']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

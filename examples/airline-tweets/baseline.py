"""What to beat: TF-IDF and logistic regression, scikit-learn's default settings, on the same two files."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"


def read(name: str) -> tuple[list[str], list[str]]:
    """Texts and labels of `data/<name>.csv`."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def baseline() -> dict[str, float]:
    """Train on train.csv, measure on test.csv: accuracy, f1_macro (fractions), seconds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline

    started = time.perf_counter()
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    classifier.fit(*read("train"))
    texts, labels = read("test")
    predicted = classifier.predict(texts)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, average="macro")),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Print the two figures and write data/baseline.json."""
    if not (DATA / "train.csv").exists():
        sys.exit("data/train.csv is missing; run make_data.py first")
    figures = baseline()
    (DATA / "baseline.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(
        f"accuracy {figures['accuracy']:.4f}, macro F1 {figures['f1_macro']:.4f}, {figures['seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()

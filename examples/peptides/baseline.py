"""Logistic regression on counts of stretches of 1 to 3 letters, on the same splits: what the model has to beat."""

from __future__ import annotations

import json
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

DATA = Path(__file__).resolve().parent / "data"


def rows(split: str) -> tuple[list[str], list[str]]:
    """Sequences and classes of a split."""
    found = [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text().splitlines()]
    return [row["text"] for row in found], [row["label"] for row in found]


def main() -> None:
    """Choose C on validation, and print the figures of test."""
    train, held_out, test = rows("train"), rows("validation"), rows("test")
    fitted = {}
    for strength in (0.1, 1.0, 10.0, 100.0):
        model = make_pipeline(
            TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False, sublinear_tf=True),
            LogisticRegression(C=strength, max_iter=2000),
        ).fit(*train)
        fitted[strength] = (model.score(*held_out), model)
    best, (_, model) = max(fitted.items(), key=lambda pair: pair[1][0])
    said = model.predict(test[0])
    macro = f1_score(test[1], said, average="macro")
    print(f"C {best:g}: accuracy {accuracy_score(test[1], said):.4f}, f1_macro {macro:.4f}")


if __name__ == "__main__":
    main()

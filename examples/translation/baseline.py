"""What no model is needed for: each test text gets the translation of the training text that is most like it.

Most like: cosine of TF-IDF over pieces of three to five letters within words. Beside it, the source itself as its
translation, and the training target that occurs most often.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sklearn.feature_extraction.text import TfidfVectorizer

DATA = Path(__file__).resolve().parent / "data"


def read(split: str) -> tuple[list[str], list[str]]:
    """English and Chinese."""
    with (DATA / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["en"] for row in rows], [row["zh"] for row in rows]


def main() -> None:
    """Print BLEU and chrF of each."""
    known, translations = read("train")
    sources, wanted = read("test")
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
    nearest = (
        vectorizer.fit_transform(sources_of(known)) @ vectorizer.transform(sources_of(sources)).T
    ).argmax(0)
    written = {
        "the source itself": sources,
        "the most frequent target": [Counter(translations).most_common(1)[0][0]] * len(sources),
        "the nearest text's translation": [translations[row] for row in nearest.A1],
    }
    for name, texts in written.items():
        bleu, chrf = BLEU(tokenize="zh"), CHRF()
        figures = [metric.corpus_score(texts, [wanted]).score for metric in (bleu, chrf)]
        print(f"{name:32} BLEU {figures[0]:5.2f}   chrF {figures[1]:5.2f}")
    print(bleu.get_signature(), chrf.get_signature(), sep="\n")


def sources_of(texts: list[str]) -> list[str]:
    """In small letters."""
    return [text.lower() for text in texts]


if __name__ == "__main__":
    main()

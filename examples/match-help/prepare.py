"""Writes the pairs of recipe.yaml from LibreOffice's help pages; fetches one Debian package, once, and runs none of it.

A page of the help has a title, keywords of its index, and sections with headings. Each title, keyword and heading is a
query; what stands below it, without that heading, is the document. Pages are dealt to train, validation and test whole,
so that no page is in two of them. The model is that of ../airline-tweets.
"""

from __future__ import annotations

import csv
import hashlib
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PACKAGE = "libreoffice-help-en-us"
PAGES = "usr/share/libreoffice/help/en-US/text"
DOCUMENT_WORDS = 50
SHORTEST_WORDS = 8
"""A shorter document says too little to be found."""
SPLITS = {"test": 15, "validation": 10}
"""Percent of the pages."""


class Page(HTMLParser):
    """Title, keywords, and the text below each heading."""

    def __init__(self) -> None:
        super().__init__()
        self.keywords: list[str] = []
        self.sections: list[tuple[str, list[str]]] = []
        self._heading = self._text = False
        self._inside = self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "meta" and found.get("itemprop") == "keywords":
            self.keywords.append(found.get("content") or "")
        elif tag == "div" and (found.get("id") == "DisplayArea" or self._inside):
            self._inside += 1
            if self._hidden or found.get("class") == "howtoget":
                self._hidden += 1  # where a command is found in the menus repeats its name
            if found.get("class") == "relatedtopics":
                self._inside = -1_000_000  # what follows belongs to other pages
        elif tag in ("h1", "h2", "h3") and self._inside > 0:
            self._heading, self._text = True, False
            self.sections.append(("", []))
        elif tag == "p" and self._inside > 0 and self.sections:
            self._text = not self._hidden and "related" not in (found.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h1", "h2", "h3"):
            self._heading = False
        elif tag == "p":
            self._text = False
            if self.sections:
                self.sections[-1][1].append(" ")
        elif tag == "div" and self._inside:
            self._inside -= 1
            self._hidden = max(0, self._hidden - 1)

    def handle_data(self, data: str) -> None:
        if self._heading:
            heading, text = self.sections[-1]
            self.sections[-1] = (heading + data, text)
        elif self._text:
            self.sections[-1][1].append(data)


def plain(text: str) -> str:
    """Words with single spaces between them."""
    return " ".join(text.split())


def pairs_of(html: str) -> list[tuple[str, str]]:
    """(query, document) of a page: its first text for title and keywords, its sections' for their headings."""
    page = Page()
    page.feed(html)
    texts = [(plain(heading), plain("".join(text))) for heading, text in page.sections]
    if not texts:
        return []
    first = next((text for _, text in texts if text), "")
    keywords = [plain(re.sub(r"see also.*|[,;]|--", " ", word)) for word in page.keywords]
    found = [(texts[0][0], first), *((word, first) for word in keywords), *texts[1:]]
    # The picture of a command is called like the command.
    cut = [
        (query, " ".join(document.removesuffix(query).split()[:DOCUMENT_WORDS])) for query, document in found
    ]
    return [
        (query, document)
        for query, document in dict.fromkeys(cut)
        if query and len(document.split()) >= SHORTEST_WORDS and query.lower() != document.lower()
    ]


def split_of(page: str) -> str:
    """By a hash of the page's path."""
    place = int.from_bytes(hashlib.sha256(page.encode()).digest()[:4], "big") % 100
    for split, percent in SPLITS.items():
        if place < percent:
            return split
        place -= percent
    return "train"


def fetched() -> Path:
    """The package's files, fetched and unpacked unless they are there."""
    folder = DATA / "download"
    if not (folder / PAGES).is_dir():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            sys.exit(f"this takes the Debian package {PACKAGE}: run it where apt-get and dpkg-deb are")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True)
        package = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    return folder / PAGES


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write the rows, all or nothing, and say how many."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["query", "document"])
        writer.writerows(rows)
    unfinished.replace(path)
    print(f"{path.name}: {len(rows):,} pairs, {len({row[1] for row in rows}):,} documents")


def main() -> None:
    """Write everything into data/ beside this file and beside ../airline-tweets/make_data.py."""
    runpy.run_path(str(HERE.parent / "airline-tweets" / "make_data.py"), run_name="__main__")
    DATA.mkdir(exist_ok=True)
    pages = fetched()
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for path in sorted(pages.rglob("*.html")):
        place = path.relative_to(pages).as_posix()
        for query, document in pairs_of(path.read_text(encoding="utf-8")):
            key = hashlib.sha256(f"{query.lower()}\n{document}".encode()).hexdigest()
            if key not in seen:
                seen.add(key)
                rows[split_of(place)].append((query, document))
    kept = {document for split in ("validation", "test") for _, document in rows[split]}
    rows["train"] = [row for row in rows["train"] if row[1] not in kept]
    for split, found in rows.items():
        write_csv(DATA / f"{split}.csv", found)


if __name__ == "__main__":
    main()

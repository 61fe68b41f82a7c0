"""Writes texts and their headings, out of LibreOffice's help, and the tokenizer and untrained model of recipe.yaml.

The pages are those of ../match-help, dealt to train, validation and test whole. The source is what stands below a
heading, the target is the heading: a summary of few words that a person wrote. A heading that a page of another split
has, too, is left out there.
"""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
FEWEST_WORDS, MOST_WORDS, LONGEST_HEADING = 12, 80, 12


def pairs() -> dict[str, list[tuple[str, str]]]:
    """Split -> (text, heading), each text once, test headings in no other split."""
    help_pages = runpy.run_path(str(HERE.parent / "match-help" / "prepare.py"))
    plain, folder = help_pages["plain"], help_pages["fetched"]()
    found: dict[str, list[tuple[str, str]]] = {"test": [], "validation": [], "train": []}
    pages = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html"))]
    texts: set[str] = set()
    headings: dict[str, str] = {}
    for split in found:
        for name in pages:
            if help_pages["split_of"](name) != split:
                continue
            page = help_pages["Page"]()
            page.feed((folder / name).read_text(encoding="utf-8"))
            for heading, parts in page.sections:
                title, text = plain(heading), " ".join(plain("".join(parts)).split()[:MOST_WORDS])
                # The picture of a command is called like the command.
                text = text.removesuffix(title).strip()
                known = headings.get(title.lower(), split) == split and text not in texts
                words = len(text.split()) >= FEWEST_WORDS, 0 < len(title.split()) <= LONGEST_HEADING
                if known and all(words):
                    texts.add(text)
                    headings[title.lower()] = split
                    found[split].append((text, title))
    return found


def main() -> None:
    """Write everything into data/ beside this file."""
    DATA.mkdir(exist_ok=True)
    found = pairs()
    for split in ("train", "validation", "test"):
        with (DATA / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("text", "heading"), *found[split]])
        print(f"data/{split}.csv: {len(found[split]):,} texts")
    translation = runpy.run_path(str(HERE.parent / "translation" / "prepare.py"))
    translation["write_model"](DATA / "model", found["train"])


if __name__ == "__main__":
    main()

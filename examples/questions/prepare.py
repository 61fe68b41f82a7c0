"""Writes data/train.json, validation.json and test.json, questions as SQuAD 2.0 has them; fetches one Debian package.

The texts are WordNet's: what it says of people and places ("Swiss theologian whose sermons began the Reformation in
Switzerland (1484-1531)"), four of a kind to a paragraph. The questions are templates, and the answer is the stretch
that a pattern finds: relations asked as questions (Levy et al. 2017). One in four has no answer: the gloss does not say
it, or the paragraph is about others. A name is in one split alone. The model is that of ../airline-tweets.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PACKAGE, NOUNS = "wordnet-base", "usr/share/wordnet/data.noun"
KINDS = {"15": "place", "18": "person"}
SPLITS = {"test": 10, "validation": 10}
"""Percent of the names."""
ENTRIES, QUESTIONS = 4, 3
"""Of a paragraph."""
WITHOUT = 0.25
MOST_WORDS = 10
PLACE = r"((?:(?:north|south|east|west|central)\w* )?[A-Z][\w']+(?: (?:and|of|the)? ?[A-Z][\w']+)*)"
ASKED = {
    "person": [
        (r"\((\d{3,4})-\d{3,4}\)", ("When was {} born?", "In which year was {} born?")),
        (r"\(\d{3,4}-(\d{3,4})\)", ("When did {} die?", "In which year did {} die?")),
        (r"\(born in ([A-Z][\w ]+)\)", ("Where was {} born?", "In which country was {} born?")),
        (r"^([^;()]+?)(?= who | whose | that | noted | known | best known | \(|;|$)", ("Who was {}?", "What was {}?")),
        (r" who (\w+ed [^;()]+?)(?= \(|;| and | who |$)", ("What did {} do?", "What is {} known for?")),
    ],
    "place": [
        (rf"capital [\w ]*?of (?:the )?{PLACE}", ("What is {} the capital of?", "{} is the capital of what?")),
        (rf" in (?:the )?{PLACE}", ("Where is {}?", "Where does {} lie?")),
        (r" (?:on|near|at) the ([a-z ]*[A-Z][\w]+(?: [A-Z][\w]+)*)", ("What is {} close to?", "By what does {} lie?")),
        (
            r"^(?:an? |the )?([a-z][a-z ]+?)(?= in | of | on | and | that | with |;|,)",
            ("What is {}?", "What kind of place is {}?"),
        ),
    ],
}  # fmt: skip
"""Kind -> what is looked for in a gloss, and how it is asked."""


@dataclass(frozen=True)
class Entry:
    """Somebody or somewhere."""

    kind: str
    names: tuple[str, ...]
    """The one that the text has, and others that a question may have."""
    gloss: str

    @property
    def text(self) -> str:
        return f"{self.names[0]}: {self.gloss}."

    def answer(self, pattern: str) -> tuple[int, str] | None:
        """(first character in the gloss, the stretch), where there is one of at most ten words."""
        found = re.search(pattern, self.gloss)
        if found is None or not 0 < len(found[1].split()) <= MOST_WORDS:
            return None
        return found.start(1), found[1]


def fetched() -> Path:
    """WordNet's nouns, fetched and unpacked unless they are there."""
    folder = DATA / "download"
    if not (folder / NOUNS).is_file():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            sys.exit(f"this takes the Debian package {PACKAGE}: run it where apt-get and dpkg-deb are")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True)
        archive = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    return folder / NOUNS


def entries(lines: Sequence[str]) -> Iterator[Entry]:
    """The people and places among WordNet's nouns, each name once."""
    seen: set[str] = set()
    for line in lines:
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        if len(fields) < 4 or fields[1] not in KINDS or "@i" not in fields:
            continue
        names = [name.replace("_", " ") for name in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
        names = sorted(dict.fromkeys(names), key=len, reverse=True)
        gloss = gloss.partition('; "')[0].strip()
        if not seen & {*names} and 20 <= len(gloss) <= 240:
            seen |= {*names}
            yield Entry(KINDS[fields[1]], tuple(names), gloss)


def split_of(name: str) -> str:
    """By a hash of the name."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100
    for split, percent in SPLITS.items():
        if place < percent:
            return split
        place -= percent
    return "train"


def paragraph(group: Sequence[Entry], others: Sequence[Entry], number: str, chance: random.Random) -> dict:
    """A text of some entries, and questions about them."""
    context = " ".join(entry.text for entry in group)
    known, unknown = [], []
    for entry in group:
        begin = context.index(entry.text) + len(entry.names[0]) + 2
        for pattern, ways in ASKED[entry.kind]:
            question = chance.choice(ways).format(chance.choice(entry.names))
            found = entry.answer(pattern)
            if found is not None:
                known.append((question, [{"text": found[1], "answer_start": begin + found[0]}]))
            elif not any(character.isdigit() for character in pattern) or "(" not in entry.gloss:
                unknown.append((question, []))
    stranger = chance.choice(others)
    unknown.append((chance.choice(ASKED[stranger.kind])[1][0].format(stranger.names[0]), []))
    chance.shuffle(known)
    chance.shuffle(unknown)
    chosen = known[:QUESTIONS]
    if chance.random() < WITHOUT * QUESTIONS:
        chosen = [*chosen[: QUESTIONS - 1], unknown[0]]
    asked = [
        {"id": f"{number}-{place}", "question": question, "answers": answers, "is_impossible": not answers}
        for place, (question, answers) in enumerate(chosen, start=1)
    ]
    return {"context": context, "qas": asked}


def paragraphs(found: Sequence[Entry], split: str) -> list[dict]:
    """Four of a kind to a text, in a fixed random order."""
    chance = random.Random(f"questions {split}")
    told = []
    for kind in sorted(ASKED):
        own = [entry for entry in found if entry.kind == kind and split_of(entry.names[0]) == split]
        chance.shuffle(own)
        for first in range(0, len(own) - ENTRIES + 1, ENTRIES):
            group, number = own[first : first + ENTRIES], f"{split}-{kind}-{first // ENTRIES + 1}"
            others = [*own[:first], *own[first + ENTRIES :]]
            told.append(paragraph(group, others, number, chance))
    chance.shuffle(told)
    return [each for each in told if each["qas"]]


def main() -> None:
    """Write everything into data/ beside this file."""
    DATA.mkdir(exist_ok=True)
    found = list(entries(fetched().read_text(encoding="utf-8").splitlines()))
    for split in ("train", "validation", "test"):
        told = paragraphs(found, split)
        articles = [{"title": "WordNet", "paragraphs": told}]
        document = {"version": "v2.0", "data": articles}
        (DATA / f"{split}.json").write_text(
            json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8"
        )
        asked = [one for each in told for one in each["qas"]]
        without = sum(one["is_impossible"] for one in asked)
        print(
            f"data/{split}.json: {len(asked):,} questions, {without:,} without an answer, {len(told):,} texts"
        )
    runpy.run_path(str(HERE.parent / "airline-tweets" / "make_data.py"), run_name="__main__")


if __name__ == "__main__":
    main()

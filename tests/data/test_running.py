"""Running text, whose lines break sentences, told from a document a line."""

from __future__ import annotations

import random
import textwrap

import pytest

from bigbatch.data.guess import profile
from bigbatch.data.running import running_share

WORDS = [
    "the",
    "old",
    "king",
    "of",
    "a",
    "far",
    "land",
    "went",
    "out",
    "to",
    "see",
    "what",
    "his",
    "people",
    "had",
    "to",
    "say",
    "about",
    "bread",
    "and",
    "war",
]


def sentences(count: int, seed: int = 0, stop: str = ".", lower: bool = False) -> list[str]:
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(4, 25)))
        found.append((text if lower else text.capitalize()) + stop)
    return found


SONNET = """
Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date:
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance, or nature's changing course, untrimm'd;
But thy eternal summer shall not fade
Nor lose possession of that fair thou owest;
""".strip().splitlines()
PLAY = [
    "MENENIUS:",
    "What work's, my countrymen, in hand? where go you",
    "With bats and clubs? The matter? speak, I pray you.",
    "",
]
CHINESE = "从前有一个国王他住在很远的地方每天早晨他都要走到河边去看太阳升起然后他回到宫殿里吃早饭" * 30


@pytest.mark.parametrize(
    "lines",
    [
        SONNET * 4,
        PLAY * 10,
        textwrap.wrap(" ".join(sentences(200)), 60),
        textwrap.wrap(" ".join(sentences(200, lower=True)), 72),
        [CHINESE[first : first + 24] for first in range(0, len(CHINESE), 24)],
        [
            f"    value_{number} = [{number},\n         {number + 1},".split("\n")[number % 2]
            for number in range(60)
        ],
    ],
    ids=["verse", "play", "wrapped prose", "wrapped, lower case", "wrapped Chinese", "code"],
)
def test_lines_that_the_next_one_carries_on(lines):
    assert running_share([lines]) >= 0.25


@pytest.mark.parametrize(
    "lines",
    [
        sentences(300),
        sentences(300, stop=""),
        sentences(300, stop="", lower=True),
        [text if number % 3 else text.lower().rstrip(".") for number, text in enumerate(sentences(300))],
        [" ".join(sentences(8, seed)) + "," for seed in range(100)],
        [text.title() for text in sentences(300, stop="")],
        ["".join(random.Random(seed).choices("ACDEFGHIKLMNPQRSTVWY", k=60)) for seed in range(200)],
        ["今天的天气很好。", "我不喜欢这家店的服务", "东西很不错，下次还会来！", "太差了"] * 30,
        SONNET[:8],
    ],
    ids=[
        "sentences",
        "no stops",
        "no stops, lower case",
        "like tweets",
        "long",
        "titles",
        "chains",
        "Chinese",
        "few",
    ],
)
def test_a_document_a_line(lines):
    assert running_share([lines]) is None


def test_a_profile_says_it_of_texts_without_labels_alone(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(SONNET * 4))
    assert profile("a.txt", base=tmp_path).running == pytest.approx(0.8, abs=0.15)
    (tmp_path / "b.txt").write_text("\n".join(sentences(100)))
    assert profile("b.txt", base=tmp_path).running is None
    (tmp_path / "c.tsv").write_text(
        "text\tlabel\n" + "".join(f"{line}\t{n % 2}\n" for n, line in enumerate(SONNET * 4))
    )
    assert profile("c.tsv", base=tmp_path).running is None

"""Which language texts are in, as far as `bigbatch init` needs to know: script first, then stop words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_STOP_WORDS = {
    "en": "the and is of to in it that you for was with this but are not have my be at on",
    "de": "der die und das ist nicht ich ein eine mit zu den es sie auf wir auch dem für von",
    "fr": "le la les et est un une des pas je que pour dans ce il qui vous sur avec du",
    "es": "el la los que de y en un una no es por con para las se lo como más pero",
}
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_WORD = re.compile(r"[^\W\d_]+")

_CHARACTERS_PER_WORD = 1.5
"""Of scripts that write no blanks between words: Chinese words have 1.5 characters on average."""


def guess_language(texts: Iterable[str]) -> str:
    """`en`, `de`, `fr`, `es`, `zh`, or `unknown`.

    Chinese when at least 30 % of the letters are Han and few are kana or hangul; else the language whose stop words
    are the largest share of all words, at least 8 % and 1.2 times the next one's.
    """
    text = " ".join(texts).lower()
    letters = sum(character.isalpha() for character in text)
    if not letters:
        return "unknown"
    if len(_HAN.findall(text)) >= 0.3 * letters:
        return "unknown" if len(_KANA_OR_HANGUL.findall(text)) > 0.1 * letters else "zh"
    words = Counter(_WORD.findall(text))
    shares = {
        language: sum(words[word] for word in stops.split()) / words.total()
        for language, stops in _STOP_WORDS.items()
    }
    best, second = sorted(shares, key=lambda language: -shares[language])[:2]
    return best if shares[best] >= max(0.08, 1.2 * shares[second]) else "unknown"


def count_words(text: str) -> float:
    """Words between blanks, and one per 1.5 characters of Chinese, Japanese and Korean."""
    cjk = len(_CJK.findall(text))
    if not cjk:
        return float(len(text.split()))
    return cjk / _CHARACTERS_PER_WORD + len(_CJK.sub(" ", text).split())


def estimate_tokens(text: str) -> float:
    """Roughly what a subword tokenizer makes of it: 1.3 a word, 1 a CJK character, and two special tokens."""
    cjk = len(_CJK.findall(text))
    rest = len((_CJK.sub(" ", text) if cjk else text).split())
    return 1.3 * rest + cjk + 2

"""Answers held against the right ones, as the scripts of SQuAD and of CMRC 2018 do, from 0 to 1.

`en` (Rajpurkar et al. 2016, 2018): without case, punctuation and articles, the same text (`exact_match`), or the F1
of the words in common. `zh` (Cui et al. 2019): without case and punctuation, the same text, or the F1 of the longest
run in common of Chinese characters and Latin words. Of several right answers the one counts that fits best; a
question without one is right where none is given. Sums are exact: no cut can change them.

Two differences: the figures are fractions, and Latin words between Chinese characters are runs of letters and digits
and single other signs, where CMRC's script asks nltk.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeGuard

import numpy as np

from bigbatch.metrics.bleu import WrittenMetric, words_of
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.sums import Parts, add_parts, exact_parts, total
from bigbatch.protocols import Metric
from bigbatch.samples import Predictions, Targets

LANGUAGES = ("auto", "en", "zh")
State = tuple[int, Parts]
"""Questions that count, and the exact sum of their values."""
Wanted = Sequence[str] | Sequence[Sequence[str]]
"""Of each row the text that was wanted, or all that would be right."""
Compare = Callable[[str, str], float]
"""(right answer, given answer) -> from 0 to 1."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What CMRC's script takes out."""
_LATIN = re.compile(r"\w+(?:[.,]\d+)*|[^\w\s]")


# ---------------------------------------------------------------- one answer against another


def normal(text: str) -> str:
    """Lower case, without punctuation, articles and further blanks.

    Example:
        >>> normal("The  Eiffel-Tower, a landmark!")
        'eiffeltower landmark'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def english_exact(right: str, given: str) -> float:
    """1 where both are the same once they are normal."""
    return float(normal(right) == normal(given))


def english_f1(right: str, given: str) -> float:
    """F1 of the words in common; where one of them has no word, 1 if both have none.

    Example:
        >>> english_f1("the Denver Broncos", "Denver Broncos of Colorado")
        0.6666666666666666
    """
    wanted, found = normal(right).split(), normal(given).split()
    if not wanted or not found:
        return float(wanted == found)
    return _f1((Counter(wanted) & Counter(found)).total(), len(wanted), len(found))


def chinese_exact(right: str, given: str) -> float:
    """1 where both are the same without punctuation."""
    return float(_without_signs(right) == _without_signs(given))


def chinese_f1(right: str, given: str) -> float:
    """F1 of the longest run of characters (and Latin words) in common.

    Example:
        >>> round(chinese_f1("1990年10月", "在1990年"), 4), chinese_f1("北京，中国", "北京中国")
        (0.5714, 1.0)
    """
    wanted, found = segments(right), segments(given)
    if not wanted or not found:
        return float(wanted == found)
    return _f1(_longest_run(wanted, found), len(wanted), len(found))


def segments(text: str) -> list[str]:
    """Chinese characters one by one, and what stands between them as words.

    Example:
        >>> segments("BERT在2018年，发布")
        ['bert', '在', '2018', '年', '发', '布']
    """
    parts = re.split("([\u4e00-\u9fa5])", _without_signs(text))
    return [
        each
        for part in parts
        for each in ([part] if "\u4e00" <= part[:1] <= "\u9fa5" else _LATIN.findall(part))
    ]


def _without_signs(text: str) -> str:
    return "".join(sign for sign in text.lower().strip() if sign not in _SIGNS)


def _longest_run(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest stretch that both have."""
    longest, before = 0, np.zeros(len(right) + 1, np.int64)
    symbols = np.array(right, dtype=object)
    for one in left:
        now = np.zeros_like(before)
        now[1:] = np.where(symbols == one, before[:-1] + 1, 0)
        longest, before = max(longest, int(now.max())), now
    return longest


def _f1(common: int, wanted: int, found: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / found, common / wanted
    return 2 * precision * recall / (precision + recall)


_COMPARE: Mapping[tuple[str, str], Compare] = {
    ("en", "exact_match"): english_exact,
    ("en", "f1"): english_f1,
    ("zh", "exact_match"): chinese_exact,
    ("zh", "f1"): chinese_f1,
}


# ---------------------------------------------------------------- of a split


@dataclass(frozen=True, kw_only=True)
class SpanMetric:
    """The mean over questions of how well the given answer fits."""

    name: str
    figure: Literal["exact_match", "f1"]
    language: str = "auto"
    answerable: bool | None = None
    """Of questions that have an answer alone, of those that have none alone; None: of all."""
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> None:
        """Nothing: it is no figure of single tokens."""

    def rows(self, given: Sequence[str], right: Sequence[Sequence[str]]) -> np.ndarray:
        """(Q,) float64 from 0 to 1; NaN of questions that it is not about.

        Args:
            given: the predicted answers; "" is none.
            right: all right answers of each question.
        """
        language = self.language
        if language == "auto":
            language = "zh" if words_of([text for own in right for text in own]) == "zh" else "en"
        compare = _COMPARE[language, self.figure]
        # SQuAD 2.0's script takes an answer of which nothing is left for none; that of 1.1 knows no such question.
        some_without = not all(right)
        values = []
        for text, own in zip(given, right, strict=True):
            about = self.answerable is None or self.answerable == bool(own)
            kept = [each for each in own if not some_without or language != "en" or normal(each)]
            values.append(max(compare(each, text) for each in kept or [""]) if about else np.nan)
        return np.array(values, np.float64)

    def of_texts(self, given: Sequence[str], right: Sequence[Sequence[str]]) -> State:
        """Number and sum of some questions; arguments as of `rows`."""
        values_Q = self.rows(given, right)
        counted_Q = values_Q[~np.isnan(values_Q)]
        return len(counted_Q), exact_parts(counted_Q)

    def merge(self, left: State | None, right: State | None) -> State | None:
        """Of both."""
        if left is None or right is None:
            return left or right
        return left[0] + right[0], add_parts(left[1], right[1])

    def value(self, state: State | None) -> float:
        """The mean."""
        questions, parts = state or (0, ())
        if questions:
            return total(parts) / questions
        kinds = {
            None: "there is no question",
            True: "no question has an answer",
            False: "every question has an answer",
        }
        return Undefined(kinds[self.answerable])


class OfTexts(Protocol):
    """A figure of whole texts: written ones held against the right one of each, or found ones against all right
    ones.
    """

    @property
    def name(self) -> str: ...

    def of_texts(self, given: Sequence[str], right: Wanted, /) -> object:
        """The state of some."""
        ...

    def rows(self, given: Sequence[str], right: Wanted, /) -> np.ndarray:
        """(N,) float64: what each adds to the figure; NaN of those that it is not about."""
        ...


def is_of_texts(metric: Metric) -> TypeGuard[OfTexts]:
    """Whether a metric is told whole texts, not single units."""
    return isinstance(metric, (WrittenMetric, SpanMetric))


def span_metrics(language: str = "auto") -> dict[str, SpanMetric]:
    """Every metric of answers by name."""
    kinds: Mapping[str, tuple[Literal["exact_match", "f1"], bool | None]] = {
        "exact_match": ("exact_match", None),
        "f1": ("f1", None),
        "exact_match_answerable": ("exact_match", True),
        "f1_answerable": ("f1", True),
        "exact_match_unanswerable": ("exact_match", False),
    }
    return {
        name: SpanMetric(name=name, figure=figure, language=language, answerable=answerable)
        for name, (figure, answerable) in kinds.items()
    }

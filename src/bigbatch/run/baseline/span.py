"""Baselines of answers in texts: none at all, and the stretch of text that stands nearest to the question's words.

::

    nearness(i, j) = sum over words w of the question  idf(w) (a fade^(i - left) + b fade^(right - j) - 2 within)
                     / sum of idf(w)
    score(i, j)    = strength nearness(i, j) + log p(shape of the stretch | words of the question)
                     - log (stretches of this shape in the text)

left and right are where w stands next to the stretch i … j, within is 1 where the stretch holds it. A shape is how the
first word is written (with digits, with a capital, otherwise) and how many words there are; its probability is naive
Bayes, learnt from the training answers. Strength, a and b, and the nearness below which no answer is given, are what
does best on some training questions. No stretch crosses the end of a sentence (after the sliding window and distance of
Richardson et al. 2013, with a prior of answers).

Shapes: N words of a text, L lengths, S shapes, K kinds of first words.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from bigbatch.data.windows import ANSWERS, texts_of
from bigbatch.metrics.span import span_metrics
from bigbatch.run.baseline.features import WORD
from bigbatch.run.baseline.match import TooLarge
from bigbatch.run.baseline.model import Baseline, Split, spread, written
from bigbatch.samples import Table

NONE, NEAR = "no_answer", "near_question_words"
LONGEST = 20
"""Words of an answer."""
FADE = 0.85
"""What a word further away counts less."""
_MOST_ROWS, _TUNED_ROWS = 30_000, 200
"""Training questions that are counted, and those that the taste is chosen by."""
_KINDS = 3
_ENDS = frozenset(".!?。！？")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, its text, and what would be right."""

    question: str
    context: str
    answers: Sequence[str]


def span_baselines(
    train: Split, evaluated: Sequence[Split], language: str, seconds: float
) -> Iterator[Baseline]:
    """Those of `task: span`.

    Args:
        train: the questions to learn from.
        evaluated: what will be scored: whether there are questions without an answer.
        language: how answers are compared.
        seconds: that fitting, and scoring a split, may take.
    """
    known = spread(len(train.rows), _MOST_ROWS)
    rows = [*_asked(train, known)]
    if not all(row.answers for row in rows) or not all(map(_all_answered, evaluated)):
        yield written(NONE, lambda split: [""] * len(split.rows))
    model = Nearest(rows, language)
    note = f"counted {len(known):,} of {len(train.rows):,} questions" if len(known) < len(train.rows) else ""

    def near(split: Split) -> list[str]:
        questions = len(split.rows)
        if model.seconds_each * questions > seconds:
            raise TooLarge(f"{questions:,} questions of {1000 * model.seconds_each:.1f} ms")
        return [model.answer(row) for row in _asked(split, np.arange(questions))]

    yield written(NEAR, near, note)


def right_answers(table: Table) -> list[list[str]]:
    """All right answers of each question of a split that is evaluated."""
    return [json.loads(content) for content in texts_of(table, ANSWERS)]


def _all_answered(split: Split) -> bool:
    return all(right_answers(split.table))


def _asked(split: Split, chosen: np.ndarray) -> Iterator[Asked]:
    rows = split.rows.rows.select(["question", "context", "answers"]).take(chosen)
    for batch in rows.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            answers = [answer["text"] for answer in json.loads(row["answers"])]
            yield Asked(question=row["question"], context=row["context"], answers=answers)


@dataclass(frozen=True, kw_only=True)
class Taste:
    """What is chosen on training questions."""

    strength: float
    before: float
    """a."""
    after: float
    """b."""
    least: float = -math.inf
    """Nearness at which, and below which, no answer is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A question in its text."""

    context: str
    text: Text
    before_N: np.ndarray
    """Nearness of the question's words in front of each word, those behind it, and those that it is."""
    after_N: np.ndarray
    within_N: np.ndarray
    prior_LN: np.ndarray
    """By length and first word; -inf where there is no stretch."""

    def best(self, taste: Taste) -> tuple[str, float]:
        """(the answer, its nearness)."""
        count = len(self.text.words)
        sums_N = np.concatenate([[0.0], np.cumsum(self.within_N)])
        near_LN = np.zeros_like(self.prior_LN)
        for length in range(min(LONGEST, count)):
            firsts = count - length
            near_LN[length, :firsts] = (
                taste.before * self.before_N[:firsts]
                + taste.after * self.after_N[length:]
                - 2.0 * (sums_N[length + 1 :] - sums_N[:firsts])
            )
        length, first = divmod(int(np.argmax(taste.strength * near_LN + self.prior_LN)), count)
        near = float(near_LN[length, first])
        if near <= taste.least or not np.isfinite(self.prior_LN[length, first]):
            return "", near
        return self.context[self.text.begins[first] : self.text.ends[first + length]], near


class Nearest:
    """What was learnt of the training questions."""

    def __init__(self, rows: Sequence[Asked], language: str) -> None:
        contexts = list(dict.fromkeys(row.context for row in rows))
        self._idf = _idf(contexts)
        self._rare = math.log(1 + len(contexts)) + 1
        self._shapes = Shapes(rows)
        self.taste = _TASTES[0]
        tuned = [rows[int(row)] for row in spread(len(rows), _TUNED_ROWS)]
        started = time.monotonic()
        seen = [(row, found) for row in tuned if (found := self._seen(row)) is not None]
        for _, found in seen:
            found.best(self.taste)
        self.seconds_each = (time.monotonic() - started) / max(1, len(tuned))
        """Of an answer, about."""
        self._tune(seen, language)

    def answer(self, row: Asked) -> str:
        """The best stretch, or ""."""
        found = self._seen(row)
        return "" if found is None else found.best(self.taste)[0]

    def _tune(self, seen: Sequence[tuple[Asked, Seen]], language: str) -> None:
        """The taste with the best F1 on these questions."""
        f1, best = span_metrics(language)["f1"], -1.0
        right = [row.answers for row, _ in seen]
        without_Q = np.array([float(not own) for own in right])
        for taste in _TASTES if seen else ():
            found = [each.best(taste) for _, each in seen]
            values_Q = f1.rows([text for text, _ in found], right)
            near_Q = np.array([near for _, near in found])
            order = np.argsort(near_Q)
            # Of the questions below a threshold none is answered.
            gains = np.concatenate([[0.0], np.cumsum((without_Q - values_Q)[order])])
            at = int(np.argmax(gains)) if without_Q.any() else 0
            if values_Q.sum() + gains[at] > best:
                best = float(values_Q.sum() + gains[at])
                least = float(near_Q[order[at - 1]]) if at else -math.inf
                self.taste = replace(taste, least=least)

    def _seen(self, row: Asked) -> Seen | None:
        """None where the text has no words."""
        text = words_of(row.context)
        count = len(text.words)
        if not count:
            return None
        asked = list(dict.fromkeys(word.lower() for word in WORD.findall(row.question) if word[0].isalnum()))
        total = sum(self._idf.get(word, self._rare) for word in asked)
        powers, places_N = FADE ** np.arange(count + 1), np.arange(count)
        before_N, after_N, within_N = np.zeros(count), np.zeros(count), np.zeros(count)
        for word in asked:
            at = text.places.get(word)
            if at is None:
                continue
            share = self._idf.get(word, self._rare) / total
            left_N, right_N = np.searchsorted(at, places_N), np.searchsorted(at, places_N, side="right")
            gaps_N = places_N - at[np.maximum(left_N - 1, 0)]
            before_N += np.where(left_N > 0, share * powers[np.maximum(gaps_N, 0)], 0.0)
            gaps_N = at[np.minimum(right_N, len(at) - 1)] - places_N
            after_N += np.where(right_N < len(at), share * powers[np.maximum(gaps_N, 0)], 0.0)
            within_N[at] += share
        return Seen(
            context=row.context, text=text, before_N=before_N, after_N=after_N, within_N=within_N,
            prior_LN=self._shapes.prior(asked, text),
        )  # fmt: skip


_TASTES = [
    Taste(strength=strength, before=before, after=after)
    for strength in (8.0, 4.0, 2.0, 1.0, 16.0, 32.0)
    for before, after in ((1.0, 1.0), (1.0, 0.3), (0.3, 1.0))
]


# ---------------------------------------------------------------- texts


@dataclass(frozen=True, kw_only=True)
class Text:
    """Words of a text."""

    words: Sequence[str]
    places: Mapping[str, np.ndarray]
    """Of each distinct one in lower case where it stands."""
    begins: Sequence[int]
    ends: Sequence[int]
    kinds_N: np.ndarray
    """How each is written; -1: a sign, at which no answer begins or ends."""
    closed_N: np.ndarray
    """(N + 1,) ends of sentences before each word."""


@lru_cache(maxsize=64)
def words_of(context: str) -> Text:
    """A text word by word; texts of many questions are cut once."""
    found = [(match.group(), *match.span()) for match in WORD.finditer(context)]
    words = [word for word, _, _ in found]
    closed = [word in _ENDS and (end == len(context) or not context[end].isalnum()) for word, _, end in found]
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        places.setdefault(word.lower(), []).append(place)
    return Text(
        words=words,
        places={word: np.array(at) for word, at in places.items()},
        begins=[begin for _, begin, _ in found],
        ends=[end for _, _, end in found],
        kinds_N=np.array([_kind(word) for word in words], np.int64),
        closed_N=np.concatenate([[0], np.cumsum(closed)]).astype(np.int64),
    )


def _kind(word: str) -> int:
    if any(sign.isdigit() for sign in word):
        return 0
    return -1 if not word[0].isalnum() else 1 if word[0].isupper() else 2


class Shapes:
    """Which shapes answers have: naive Bayes of the question's words."""

    def __init__(self, rows: Sequence[Asked]) -> None:
        self._counts_S = np.full(_KINDS * LONGEST, 0.1)
        self._of_word: dict[str, np.ndarray] = {}
        told: list[tuple[int, list[str]]] = []
        for row in rows:
            if row.answers and (words := WORD.findall(row.answers[0])) and len(words) <= LONGEST:
                shape = max(_kind(words[0]), 0) * LONGEST + len(words) - 1
                told.append((shape, list(dict.fromkeys(map(str.lower, WORD.findall(row.question))))))
        times = Counter(word for _, words in told for word in words)
        for shape, words in told:
            self._counts_S[shape] += 1
            for word in words:
                if times[word] >= 5:  # what a rarer word says of shapes is chance
                    self._of_word.setdefault(word, np.zeros(_KINDS * LONGEST))[shape] += 1
        total = self._counts_S.sum()
        self._log_S = np.log(self._counts_S / total)
        # Smoothed by what any question's word would say: shares of rare shapes are not believed.
        self._ratios: Mapping[str, np.ndarray] = {
            word: np.log((counts_S + 2 * times[word] / total) / (self._counts_S + 2) * (total / times[word]))
            for word, counts_S in self._of_word.items()
        }

    def shares(self, question: Sequence[str]) -> np.ndarray:
        """(S,) log p(shape | words of the question)."""
        log_S = self._log_S + sum(
            (self._ratios[word] for word in question if word in self._ratios), np.zeros(1)
        )
        return log_S - np.logaddexp.reduce(log_S)

    def prior(self, question: Sequence[str], text: Text) -> np.ndarray:
        """(L, N) log p of each stretch, by length and first word; -inf where none may be."""
        count = len(text.words)
        places_N, share_KL = np.arange(count), self.shares(question).reshape(_KINDS, LONGEST)
        prior_LN = np.full((LONGEST, count), -np.inf)
        for length in range(min(LONGEST, count)):
            first_N = places_N[: count - length]
            last_N = first_N + length
            kinds_N = text.kinds_N[first_N]
            allowed_N = (kinds_N >= 0) & (text.kinds_N[last_N] >= 0)
            allowed_N &= text.closed_N[first_N] == text.closed_N[last_N]
            known_N = kinds_N[allowed_N]
            many_K = np.bincount(known_N, minlength=_KINDS)
            prior_LN[length, first_N[allowed_N]] = share_KL[known_N, length] - np.log(many_K[known_N])
        return prior_LN


def _idf(contexts: Sequence[str]) -> dict[str, float]:
    """Of each word: ln (1 + texts) / (1 + texts that have it), and one."""
    having = Counter(word for context in contexts for word in words_of(context).places)
    return {word: math.log((1 + len(contexts)) / (1 + count)) + 1 for word, count in having.items()}

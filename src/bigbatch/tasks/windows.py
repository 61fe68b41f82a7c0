"""Questions and the texts that their answers stand in, as token ids: one window after the other through a long text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bigbatch.data.windows import ANSWERS, CONTEXT, FIRST, PLACES
from bigbatch.errors import DataError, ModelError, Problem, RecipeError
from bigbatch.protocols import Row, Tokenizer
from bigbatch.samples import Sample
from bigbatch.tasks.inputs import NoTokens, is_tokenised

if TYPE_CHECKING:
    from transformers import BatchEncoding

_SHOWN = 60
"""Characters of a text in a message."""
Span = tuple[int, int]
"""First character, and the one behind the last."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How questions and texts are cut."""

    max_length: int
    """Tokens of a window, the question and the tokenizer's marks included."""
    stride: int | None
    """Tokens of the text that neighbouring windows share; None: 128, or half of what is left for the text if that is
    less."""
    max_query_length: int | None
    """Tokens of a question at most; None: 64, or a quarter of a window if that is less."""

    @property
    def asked(self) -> int:
        """Tokens of a question at most."""
        return min(64, self.max_length // 4) if self.max_query_length is None else self.max_query_length

    def shared(self, tokenizer: Tokenizer) -> int:
        """The stride in tokens.

        Raises:
            RecipeError: windows would not move on.
        """
        marks = tokenizer.num_special_tokens_to_add(pair=True)  # type: ignore[attr-defined]
        room = self.max_length - marks - self.asked
        if room < 1 or (self.stride is not None and self.stride >= room):
            least = marks + self.asked + (self.stride or 0) + 1
            what = (
                f"a window of {self.max_length} tokens has {max(room, 0)} for the text beside {marks} marks and a "
                f"question of up to {self.asked}, and neighbours share {self.stride or 0} of them: raise "
                f"data.max_length to {least} or more, or lower task.stride or task.max_query_length"
            )
            raise RecipeError([Problem(where="recipe", key="task.stride", what=what)])
        return min(128, room // 2) if self.stride is None else self.stride


def encode_windows(
    rows: Sequence[Row], tokenizer: Tokenizer | None, cut: Windows, *, labelled: bool
) -> list[Sample]:
    """A sample for each row: its windows one behind the other, a unit a window (`data.windows`).

    A window that holds the whole answer learns where it starts and ends; others, and all of a question without an
    answer, learn the token that stands for none: the tokenizer's `cls`, else the first.

    Args:
        rows: with `question`, `context` and, to learn from, `answers` as `data.squad.answers_of` has them.
        tokenizer: a fast Hugging Face tokenizer, which knows the characters of each token.
        cut: how long windows are.
        labelled: whether the rows have answers.

    Raises:
        DataError: rows of token ids, answers that do not stand where they say.
        ModelError: a slow tokenizer.
        RecipeError: windows that have no room for the text.
    """
    if any(map(is_tokenised, rows)):
        raise DataError(
            "rows of token ids; task span reads texts: figures compare texts, and it has to know which characters a "
            "token stands for. Pass the rows as they were before tokenising: question, context, answers"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} cannot say which characters a token stands for; "
            "task span needs a fast tokenizer"
        )
    assert tokenizer is not None
    answers = [_checked(row) if labelled else [] for row in rows]
    stride = cut.shared(tokenizer)
    questions, shortened = _short_questions([row["question"] for row in rows], tokenizer, cut.asked)
    encoded = tokenizer(
        questions,
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=cut.max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    windows: list[list[int]] = [[] for _ in rows]
    for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
        windows[row].append(window)
    cls = getattr(tokenizer, "cls_token_id", None)
    return [
        _sample(row, encoded, own, cls, gold, short, labelled)
        for row, own, gold, short in zip(rows, windows, answers, shortened, strict=True)
    ]


def _short_questions(
    questions: Sequence[str], tokenizer: Tokenizer, most: int
) -> tuple[list[str], list[bool]]:
    """Questions of at most so many tokens, and which of them were cut."""
    found, cut = list(questions), [False] * len(questions)
    waiting = list(range(len(found)))
    while waiting:
        encoded = tokenizer(
            [found[number] for number in waiting],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        long = []
        for number, places in zip(waiting, encoded["offset_mapping"], strict=True):
            if len(places) > most:
                # Pieces of one character have the same end: one token less is taken until the text is shorter.
                ends = [end for _, end in places[:most] if end < len(found[number])]
                found[number], cut[number] = found[number][: max(ends, default=0)], True
                long.append(number)
        waiting = long
    return found, cut


def _sample(
    row: Row,
    encoded: BatchEncoding,
    windows: Sequence[int],
    cls: int | None,
    answers: Sequence[Span],
    shortened: bool,
    labelled: bool,
) -> Sample:
    """One row's windows."""
    ids, places, segments, values = [], [], [], []
    held = not answers
    for number, window in enumerate(windows):
        own = np.asarray(encoded["input_ids"][window], np.int32)
        of_text = np.array([part == 1 for part in encoded.sequence_ids(window)], bool)
        own_places = np.asarray(encoded["offset_mapping"][window], np.int32).reshape(-1, 2)
        own_places[~of_text] = -1
        null = int(np.argmax(own == cls)) if cls is not None and (own == cls).any() else 0
        span = _tokens_of(answers[0], own_places, of_text) if answers else None
        held = held or span is not None
        start, end = (null, null) if span is None else span
        values.append([number, len(windows), 0 if number else FIRST, len(own), start, end, null])
        ids.append(own)
        places.append(own_places)
        if "token_type_ids" in encoded:
            segments.append(np.asarray(encoded["token_type_ids"][window], np.int8))
    if not any((each[:, 1] > each[:, 0]).any() for each in places):
        raise NoTokens(
            f"context {row['context'][:40]!r} gives no tokens; "
            "remove the row or use a tokenizer that knows its characters"
        )
    lengths = [len(own) for own in ids]
    joined = np.concatenate(places)
    streams = {PLACES: {"begin": joined[:, 0].copy(), "end": joined[:, 1].copy()}}
    if labelled:
        texts = json.dumps([row["context"][first:end] for first, end in answers], ensure_ascii=False)
        streams[CONTEXT] = {"bytes": np.frombuffer(row["context"].encode(), np.uint8)}
        streams[ANSWERS] = {"bytes": np.frombuffer(texts.encode(), np.uint8)}
    return Sample(
        ids=np.concatenate(ids),
        segments=np.concatenate(segments) if segments else None,
        reads=(np.cumsum(lengths) - lengths).astype(np.int32),
        values=np.array(values, np.int32),
        weights=np.ones(len(windows), np.float32),
        streams=streams,
        truncated=shortened or not held,
    )


def _tokens_of(span: Span, places_L2: np.ndarray, of_text: np.ndarray) -> tuple[int, int] | None:
    """First and last token of the answer in a window; None where the window does not hold all of it."""
    at = np.flatnonzero(of_text & (places_L2[:, 1] > places_L2[:, 0]))
    if not len(at) or places_L2[at[0], 0] > span[0] or places_L2[at[-1], 1] < span[1]:
        return None
    first = at[np.searchsorted(places_L2[at, 1], span[0], side="right")]
    last = at[np.searchsorted(places_L2[at, 0], span[1], side="left") - 1]
    return (int(first), int(last)) if first <= last else None


# ---------------------------------------------------------------- answers


def _checked(row: Row) -> list[Span]:
    """Where a row's answers stand, without blanks around them.

    Raises:
        DataError: each that does not stand where it says.
    """
    context, found = row["context"], []
    for answer in json.loads(row["answers"]):
        text, start = answer["text"], answer["answer_start"]
        if context[start : start + len(text)] != text:
            raise DataError(misplaced(context, text, start))
        bare = text.strip()
        start += text.index(bare)
        found.append((start, start + len(bare)))
    return found


def misplaced(context: str, text: str, start: int) -> str:
    """What is said of an answer that does not stand in the text where it says.

    Args:
        context: the text.
        text: of the answer.
        start: the character at which it is said to start.

    Example:
        >>> misplaced("Zoë met Bob.", "Bob", 9)
        "answers: 'Bob' at answer_start 9: found 'ob.' there; write answer_start: 8 (9 counts UTF-8 bytes)"
    """
    there = context[start : start + len(text)]
    what = f"answers: {_short(text)} at answer_start {start:,}: found {_short(there)} there"
    at = [place for place in _occurrences(context, text)]
    if len(at) == 1:
        units = _units(context, at[0], start)
        return f"{what}; write answer_start: {at[0]}{units}"
    if at:
        nearest = min(at, key=lambda place: abs(place - start))
        units = _units(context, nearest, start)
        return (
            f"{what}; the text stands {len(at)} times in the context, nearest at {nearest}{units}: say which"
        )
    if _normal(text) in _normal(context):
        return f"{what}; the context writes it with other characters of Unicode (composed, or case): copy it from there"
    return f"{what}; expected a stretch of the context, and it stands nowhere in it: mend or remove the row"


def _occurrences(context: str, text: str, most: int = 1000) -> list[int]:
    found, place = [], context.find(text)
    while place >= 0 and len(found) < most:
        found.append(place)
        place = context.find(text, place + 1)
    return found


def _units(context: str, place: int, start: int) -> str:
    """What else than characters the given place may count."""
    before = context[:place]
    for name, encoding, size in (("UTF-8 bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2)):
        if len(before.encode(encoding)) // size == start != place:
            return f" ({start} counts {name})"
    return ""


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")

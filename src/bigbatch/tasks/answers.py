"""Rows of a prompt and two answers as token ids: the prompt with each answer, one sequence behind the other."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bigbatch.data.sides import CHOSEN, REJECTED
from bigbatch.data.talks import Message, is_talk, talk_of
from bigbatch.errors import DataError
from bigbatch.protocols import Json, Role, Row, Tokenizer
from bigbatch.samples import Sample
from bigbatch.tasks.chat_rows import ChatRows
from bigbatch.tasks.inputs import NoTokens
from bigbatch.tasks.templates import template_of

ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """Token ids of a row."""

    prompts: Sequence[np.ndarray]
    """In front of each answer; the same but where a chat template's last token reaches into the answer."""
    answers: Sequence[np.ndarray]
    shortened: bool = False
    """Whether turns were left out."""


def answer_roles(*, absent_when_predicting: bool) -> dict[str, Role]:
    """The columns of a prompt and its two answers."""

    def role(meaning: str, absent: bool, unlike: str = "") -> Role:
        return Role(
            meaning=meaning,
            may_be_ids=True,
            may_be_messages=True,
            absent_when_predicting=absent,
            unlike=unlike,
        )

    return {
        "prompt": role("what is answered", False),
        ANSWERS[CHOSEN]: role("the answer that is preferred", absent_when_predicting),
        ANSWERS[REJECTED]: role("another answer", absent_when_predicting, ANSWERS[CHOSEN]),
    }


def told_rewards(chosen: float, rejected: float) -> dict[str, Json]:
    """Both rewards of a row (None: not finite), and the name of the larger one (None: there is none)."""
    better = ANSWERS[CHOSEN] if chosen > rejected else ANSWERS[REJECTED] if chosen < rejected else None
    both = dict(zip(ANSWERS, (chosen, rejected), strict=True))
    return {"preferred": better, **{name: each if np.isfinite(each) else None for name, each in both.items()}}


def encode_answers(rows: Sequence[Row], tokenizer: Tokenizer | None, max_length: int | None) -> list[Sample]:
    """A sample for each row.

    Prompt and answers are tokenised apart, so that both answers follow the same tokens; a blank between them belongs to
    the answer. Answers end with the tokenizer's end mark, if it has one. Messages are written by the chat template,
    end mark included. What is longer than `max_length` loses its oldest turns, then the beginning of its prompt, as
    much for both answers, and then the end of the answer. Answers that are the same, perhaps only since they were cut,
    count nothing.

    Args:
        rows: role -> text, messages (`data.talks`), or token ids, which are taken as they are.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens of a sequence; None keeps all.

    Raises:
        DataError: an answer without a token, or a prompt without one where no mark can stand for it.
        ModelError: messages, and no chat template.
    """
    kinds = [_kind(row) for row in rows]
    texts, talks = (
        [row for row, kind in zip(rows, kinds, strict=True) if kind == one] for one in ("text", "talk")
    )
    found = {
        "text": iter(_of_texts(texts, tokenizer) if texts else []),
        "talk": iter(
            _Talks(tokenizer=tokenizer, max_length=max_length or 2**31).read(talks) if talks else []
        ),
        "ids": (_of_ids(row) for row, kind in zip(rows, kinds, strict=True) if kind == "ids"),
    }
    return [_sample(next(found[kind]), max_length) for kind in kinds]


def _kind(row: Row) -> str:
    values = [row[name] for name in ("prompt", *ANSWERS)]
    kinds = {"ids" if not isinstance(each, str) else "talk" if is_talk(each) else "text" for each in values}
    if len(kinds) > 1:
        raise DataError(
            "prompt and answers are of different kinds; expected three texts, messages or lists of token ids"
        )
    return kinds.pop()


def _of_ids(row: Row) -> Exchange:
    """Token ids as they are."""
    prompt = np.asarray(row["prompt"], np.int32)
    return Exchange(prompts=(prompt, prompt), answers=[np.asarray(row[name], np.int32) for name in ANSWERS])


def _of_texts(rows: Sequence[Row], tokenizer: Tokenizer | None) -> Iterator[Exchange]:
    """The prompt and the two answers of each row."""
    assert tokenizer is not None, "texts need a tokenizer"
    prompts = tokenizer([row["prompt"] for row in rows], verbose=False)["input_ids"]
    answers = {
        name: tokenizer([row[name] for row in rows], add_special_tokens=False, verbose=False)["input_ids"]
        for name in ANSWERS
    }
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        own = [_closed(answers[name][number], tokenizer, name, row[name]) for name in ANSWERS]
        opened = _opened(prompt, tokenizer)
        yield Exchange(prompts=(opened, opened), answers=own)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Talks:
    """Messages as token ids, as `task: chat` writes them; what is learnt is the last turn."""

    tokenizer: Tokenizer | None
    max_length: int

    @cached_property
    def _rows(self) -> ChatRows:
        template = template_of(self.tokenizer, "prefer and reward")
        return ChatRows(template=template, max_length=2**31, too_long="cut", special="text")

    def read(self, rows: Sequence[Row]) -> list[Exchange]:
        """Of each row, with one call of the tokenizer but for those that are too long."""
        told = [talk_of(row["prompt"]) for row in rows]
        answers = [[talk_of(row[name])["messages"] for name in ANSWERS] for row in rows]
        whole = self._written(list(zip(told, answers, strict=True)))
        return [self._fitting(*each) for each in zip(told, answers, whole, strict=True)]

    def _written(
        self, rows: Sequence[tuple[Mapping[str, list[Message]], Sequence[list[Message]]]]
    ) -> list[Exchange]:
        texts = [
            {"talk": json.dumps({**told, "messages": [*told["messages"], *own]}, ensure_ascii=False)}
            for told, answers in rows
            for own in answers
        ]
        samples = iter(self._rows.samples(texts, "talk"))
        return [self._exchange([next(samples) for _ in answers]) for _, answers in rows]

    def _exchange(self, sides: Sequence[Sample]) -> Exchange:
        for name, side in zip(ANSWERS, sides, strict=True):
            if not len(side.reads):
                raise NoTokens(f"the {name} answer gives no tokens; remove the row")
        firsts = [int(side.reads[0]) + 1 for side in sides]
        return Exchange(
            prompts=[side.ids[:first] for side, first in zip(sides, firsts, strict=True)],
            answers=[
                side.ids[first : int(side.reads[-1]) + 2] for side, first in zip(sides, firsts, strict=True)
            ],
        )

    def _fitting(
        self, told: Mapping[str, list[Message]], answers: Sequence[list[Message]], whole: Exchange
    ) -> Exchange:
        """Without so many of the oldest turns that both answers have room; what the system says stays."""
        if _longest(whole) <= self.max_length:
            return whole
        turns = told["messages"]
        head = next((at for at, each in enumerate(turns) if each["role"] not in ("system", "developer")), 0)
        asked = [at for at in range(head + 1, len(turns)) if turns[at]["role"] == "user"]

        def from_turn(first: int) -> Exchange:
            kept = {**told, "messages": [*turns[:head], *turns[first:]]}
            found = self._written([(kept, answers)])[0]
            return Exchange(prompts=found.prompts, answers=found.answers, shortened=True)

        if not asked:
            return whole
        first = bisect_left(asked[:-1], True, key=lambda at: _longest(from_turn(at)) <= self.max_length)
        return from_turn(asked[first])


def _longest(exchange: Exchange) -> int:
    return max(len(prompt) + len(own) for prompt, own in zip(exchange.prompts, exchange.answers, strict=True))


def _mark(tokenizer: Tokenizer, name: str) -> int | None:
    """The id of a special token, if the tokenizer has it."""
    return getattr(tokenizer, f"{name}_token_id", None)


def _opened(prompt: Sequence[int], tokenizer: Tokenizer) -> np.ndarray:
    """The prompt without the marks that its tokenizer puts behind a text; a mark alone stands for an empty one."""
    ends = {_mark(tokenizer, "eos"), _mark(tokenizer, "sep")} - {None}
    ids = list(prompt)
    while ids and ids[-1] in ends:
        ids.pop()
    if not ids:
        marks = (_mark(tokenizer, "bos"), _mark(tokenizer, "eos"))
        ids = [mark for mark in marks if mark is not None][:1]
    if not ids:
        raise DataError("the prompt gives no tokens, and the tokenizer has no mark to stand for it")
    return np.asarray(ids, np.int32)


def _closed(answer: Sequence[int], tokenizer: Tokenizer, name: str, text: str) -> np.ndarray:
    """The answer with its end mark."""
    if not len(answer):
        raise NoTokens(f"the {name} answer {text[:40]!r} gives no tokens; remove the row")
    end = _mark(tokenizer, "eos")
    ids = np.asarray(answer, np.int32)
    return ids if end is None or ids[-1] == end else np.append(ids, np.int32(end))


def _sample(found: Exchange, max_length: int | None) -> Sample:
    """Both sequences; every token of an answer is read at the one in front of it."""
    longest, whole = max(map(len, found.answers)), _longest(found)
    most = max_length or max(map(len, found.prompts)) + longest
    kept = [prompt[max(0, len(prompt) - max(1, most - longest)) :] for prompt in found.prompts]
    cut = [answer[: most - len(own)] for own, answer in zip(kept, found.answers, strict=True)]
    firsts = (len(kept[CHOSEN]) - 1, len(kept[CHOSEN]) + len(cut[CHOSEN]) + len(kept[REJECTED]) - 1)
    reads = [first + np.arange(len(answer)) for first, answer in zip(firsts, cut, strict=True)]
    values = [
        np.column_stack([answer, np.full(len(answer), side)])
        for side, answer in zip((CHOSEN, REJECTED), cut, strict=True)
    ]
    # Whatever the model says of both, their margin is 0: nothing can be learnt of such a pair.
    told_apart = not (
        np.array_equal(cut[CHOSEN], cut[REJECTED]) and np.array_equal(kept[CHOSEN], kept[REJECTED])
    )
    return Sample(
        ids=np.concatenate([kept[CHOSEN], cut[CHOSEN], kept[REJECTED], cut[REJECTED]]),
        reads=np.concatenate(reads).astype(np.int32),
        values=np.concatenate(values).astype(np.int32),
        weights=np.full(len(cut[CHOSEN]) + len(cut[REJECTED]), told_apart, np.float32),
        truncated=found.shortened or whole > most,
    )

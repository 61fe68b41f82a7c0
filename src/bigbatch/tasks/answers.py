"""Rows of a prompt and two answers as token ids: the prompt with each answer, one sequence behind the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bigbatch.data.sides import CHOSEN, REJECTED
from bigbatch.errors import DataError
from bigbatch.protocols import Row, Tokenizer
from bigbatch.samples import Sample
from bigbatch.tasks.inputs import NoTokens

ANSWERS = ("chosen", "rejected")


def encode_answers(rows: Sequence[Row], tokenizer: Tokenizer | None, max_length: int | None) -> list[Sample]:
    """A sample for each row.

    Prompt and answers are tokenised apart, so that both answers follow the same tokens; a blank between them belongs to
    the answer. Answers end with the tokenizer's end mark, if it has one. What is longer than `max_length` loses the
    beginning of its prompt, as much for both answers, and then the end of the answer. Answers that are the same,
    perhaps only since they were cut, count nothing.

    Args:
        rows: role -> text, or token ids, which are taken as they are.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens of a sequence; None keeps all.

    Raises:
        DataError: an answer without a token, or a prompt without one where no mark can stand for it.
    """
    texts = [row for row in rows if isinstance(row["prompt"], str)]
    encoded = iter(_of_texts(texts, tokenizer) if texts else [])
    return [
        _sample(*(next(encoded) if isinstance(row["prompt"], str) else _of_ids(row)), max_length)
        for row in rows
    ]


def _of_ids(row: Row) -> tuple[np.ndarray, list[np.ndarray]]:
    """Token ids as they are."""
    return np.asarray(row["prompt"], np.int32), [np.asarray(row[name], np.int32) for name in ANSWERS]


def _of_texts(
    rows: Sequence[Row], tokenizer: Tokenizer | None
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """The prompt and the two answers of each row."""
    assert tokenizer is not None, "texts need a tokenizer"
    prompts = tokenizer([row["prompt"] for row in rows], verbose=False)["input_ids"]
    answers = {
        name: tokenizer([row[name] for row in rows], add_special_tokens=False, verbose=False)["input_ids"]
        for name in ANSWERS
    }
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        own = [_closed(answers[name][number], tokenizer, name, row[name]) for name in ANSWERS]
        yield _opened(prompt, tokenizer), own


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


def _sample(prompt: np.ndarray, answers: Sequence[np.ndarray], max_length: int | None) -> Sample:
    """Both sequences; every token of an answer is read at the one in front of it."""
    longest = max(len(answer) for answer in answers)
    most = max_length or len(prompt) + longest
    kept = prompt[max(0, len(prompt) - max(1, most - longest)) :]
    cut = [answer[: most - len(kept)] for answer in answers]
    firsts = (len(kept) - 1, 2 * len(kept) + len(cut[CHOSEN]) - 1)
    reads = [first + np.arange(len(answer)) for first, answer in zip(firsts, cut, strict=True)]
    values = [
        np.column_stack([answer, np.full(len(answer), side)])
        for side, answer in zip((CHOSEN, REJECTED), cut, strict=True)
    ]
    # Whatever the model says of both, their margin is 0: nothing can be learnt of such a pair.
    told_apart = not np.array_equal(cut[CHOSEN], cut[REJECTED])
    return Sample(
        ids=np.concatenate([kept, cut[CHOSEN], kept, cut[REJECTED]]),
        reads=np.concatenate(reads).astype(np.int32),
        values=np.concatenate(values).astype(np.int32),
        weights=np.full(len(cut[CHOSEN]) + len(cut[REJECTED]), told_apart, np.float32),
        truncated=len(prompt) + longest > most,
    )

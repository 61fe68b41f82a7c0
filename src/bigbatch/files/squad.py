"""Questions with answers in texts: files as SQuAD has them, and the forms in which rows hold answers.

A file is one object, `{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}`
(SQuAD 1.1 and 2.0, CMRC 2018, DRCD, …), or its articles in a list or a line each. A question becomes a row; rows are
numbered from 1 through the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from bigbatch.errors import Problem
from bigbatch.files.plain import is_missing, plain, text_of
from bigbatch.files.problems import data_error
from bigbatch.files.raw import Raw, from_dicts
from bigbatch.protocols import Row

_PARAGRAPHS, _QUESTIONS = "paragraphs", "qas"
_MOST_START = 2**31 - 1


def answers_of(value: object) -> str | None:
    """Answers as one text, `[{"text": …, "answer_start": …}, …]`; None when missing. No answer is `[]`.

    Args:
        value: a list of `{"text", "answer_start"}`, one such, or `{"text": […], "answer_start": […]}`; or that as JSON.

    Raises:
        ValueError: it is none of these, or an answer lacks its text or its place.
    """
    value = plain(value)
    if isinstance(value, (str, bytes)):
        value = _parsed(text_of(value) or "")
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        value = _by_answer(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of {_FORM}, found {type(value).__name__}")
    found = [_answer(plain(answer), number) for number, answer in enumerate(value, start=1)]
    return json.dumps(found, ensure_ascii=False)


def holds_answers(values: Sequence[object]) -> bool:
    """Whether values of a column are answers, and some are there."""
    try:
        return any(found not in (None, "[]") for found in [answers_of(value) for value in values])
    except ValueError:
        return False


_FORM = '{"text", "answer_start"}'


def _parsed(text: str) -> object:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"expected answers as JSON, a list of {_FORM}; found {text[:40]!r}") from None


def _by_answer(value: Row) -> object:
    """The hub's flat form, lists of texts and of places, answer by answer; one answer as it is."""
    texts, starts = plain(value.get("text")), plain(value.get("answer_start"))
    if isinstance(texts, str):
        return [value]
    if not isinstance(texts, (list, tuple)) or not isinstance(starts, (list, tuple)):
        raise ValueError(f"expected lists under text and answer_start, found {sorted(map(str, value))}"[:200])
    if len(texts) != len(starts):
        raise ValueError(f"found {len(texts)} texts, but {len(starts)} answer_start")
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _answer(answer: object, number: int) -> Row:
    if not isinstance(answer, Mapping):
        raise ValueError(f"answer {number}: expected {_FORM}, found {type(answer).__name__}")
    text, start = plain(answer.get("text")), plain(answer.get("answer_start"))
    if not isinstance(text, str):
        raise ValueError(f"answer {number}: expected its text, found {type(text).__name__}")
    if not (text_of(text) or "").strip():
        raise ValueError(f"answer {number} is empty; a question without an answer has the list []")
    if isinstance(start, float) and start.is_integer():
        start = int(start)
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= _MOST_START:
        what = "a number of characters from the context's start"
        raise ValueError(
            f"answer {number}, {text[:40]!r}: answer_start: found {start!r:.40}; expected {what}"
        )
    return {"text": text, "answer_start": start}


# ---------------------------------------------------------------- files


def holds_questions(rows: Sequence[Row]) -> bool:
    """Whether objects are a SQuAD file: one whose `data` are articles with paragraphs, or such articles."""
    articles = _articles(rows)
    return bool(articles) and all(isinstance(one, Mapping) and _PARAGRAPHS in one for one in articles)


def _articles(rows: Sequence[Row]) -> Sequence[object]:
    inside = rows[0].get("data") if len(rows) == 1 else None
    return inside if isinstance(inside, list) else rows


def read_questions(name: str, rows: Sequence[Row]) -> Raw:
    """The questions of a file of which `holds_questions` is true, a row each.

    Columns: `id` where there are any, `title` likewise, `context`, `question`, `answers` (where a question has them).

    Args:
        name: of the file, for messages.
        rows: its objects.

    Raises:
        DataError: every part that has another form, with its place in the file.
    """
    problems: list[Problem] = []
    found = list(_questions(name, _articles(rows), problems))
    if problems:
        raise data_error(problems)
    return from_dicts(name, found)


def _questions(name: str, articles: Sequence[object], problems: list[Problem]) -> Iterator[Row]:
    def listed(owner: object, key: str, place: str) -> list[object]:
        inside = owner.get(key) if isinstance(owner, Mapping) else None
        if not isinstance(inside, list):
            what = f"expected a list under {key!r}, found {type(inside).__name__}"
            problems.append(Problem(where=f"{name}: {place}", what=what))
        return inside if isinstance(inside, list) else []

    for number, article in enumerate(articles):
        place = f"data[{number}]"
        title = article.get("title") if isinstance(article, Mapping) else None
        for second, paragraph in enumerate(listed(article, _PARAGRAPHS, place)):
            inner = f"{place}.{_PARAGRAPHS}[{second}]"
            questions = listed(paragraph, _QUESTIONS, inner)
            context = paragraph.get("context") if isinstance(paragraph, Mapping) else None
            if questions and not isinstance(context, str):
                what = f"expected a text under 'context', found {type(context).__name__}"
                problems.append(Problem(where=f"{name}: {inner}", what=what))
            for third, question in enumerate(questions):
                where = f"{inner}.{_QUESTIONS}[{third}]"
                row = _row(question, context)
                if isinstance(row, str):
                    problems.append(Problem(where=f"{name}: {where}", what=row))
                    continue
                yield row if title is None else {**row, "title": title}


def _row(question: object, context: object) -> Row | str:
    """A question as a row, or what is wrong with it."""
    if not isinstance(question, Mapping) or not isinstance(question.get("question"), str):
        return "expected an object with a text under 'question'"
    row = {"context": context, "question": question["question"]}
    if question.get("id") is not None:
        row = {"id": question["id"], **row}
    answers = question.get("answers")
    if question.get("is_impossible") is True:
        if answers:
            return f"is_impossible is true, but there are {len(answers)} answers"
        answers = []
    return row if answers is None else {**row, "answers": answers}

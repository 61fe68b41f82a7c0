"""A question with the part of its text in which the right answer and the given one stand, for people."""

from __future__ import annotations

import json

MOST_CHARACTERS, BESIDE = 500, 80
"""Of an excerpt; of the text on either side of an answer."""


def marked(question: str, context: str, answers: str, given: tuple[int, str]) -> str:
    """The question, and its text shortened: «the right answer», [the given one].

    Args:
        question: as it was asked.
        context: the text.
        answers: the right ones, JSON as `data.squad.answers_of` has it.
        given: first character of the given answer in the text, and the answer.

    Example:
        >>> marked("Who?", "Ann met Bob.", '[{"text": "Ann", "answer_start": 0}]', (8, "Bob"))
        'Who? — «Ann» met [Bob].'
    """
    places = [(one["answer_start"], len(one["text"]), "«", "»") for one in json.loads(answers)[:1]]
    first, text = given
    if text and context[first : first + len(text)] == text:
        places.append((first, len(text), "[", "]"))
    marks = sorted(
        mark
        for start, length, opens, closes in places
        for mark in ((start, 1, opens), (start + length, 0, closes))
    )
    shown, done = "", 0
    for place, _, sign in marks:
        between = context[done:place]
        if len(between) > 2 * BESIDE:
            between = f"{between[:BESIDE] if done else ''} … {between[-BESIDE:]}"
        shown, done = f"{shown}{between}{sign}", place
    rest = context[done:]
    shown += rest if len(rest) <= BESIDE else f"{rest[:BESIDE]} …"
    return f"{question[:MOST_CHARACTERS]} — {shown.strip()}"[: 2 * MOST_CHARACTERS]

"""Texts on the page: those of a split beside what was wanted, and what prompts were continued with over the run.

Where a text and the one that was wanted differ, both are marked, by words, or by characters where there are no blanks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path

from bigbatch.report.text import clean, shorten
from bigbatch.stored import Damaged, json_value, read_text

_NAME = re.compile(r"step-(\d{1,15})\.jsonl")
_MOST_STEPS, _MOST_PROMPTS, _MOST_TEXTS, _LETTERS = 5, 12, 20, 400
_PLACES = {
    "worst": "Least like what was wanted",
    "typical": "Typical: around the median",
    "best": "Most like what was wanted",
}
_HAN = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+|\\s+"
)
"""A sign of a script without blanks, a word of others, or the blank between."""
_MOST_BYTES = 2**22


def texts_view(evaluation: Mapping[str, object]) -> dict[str, object]:
    """The texts of the last split that has some, as the template reads them: `texts`, a group a place, worst first."""
    for split, facts in reversed([*evaluation.items()]):
        rows = facts.get("texts") if isinstance(facts, Mapping) else None
        found = (
            [_row(row) for row in rows[:_MOST_TEXTS] if isinstance(row, Mapping)]
            if isinstance(rows, list)
            else []
        )
        if found:
            groups = [
                (words, [row for row in found if row["place"] == place]) for place, words in _PLACES.items()
            ]
            shown = [(words, group) for words, group in groups if group]
            return {"texts": shown, "texts_split": clean(split), "texts_by": found[0]["by"]}
    return {"texts": [], "texts_split": "", "texts_by": ""}


def _row(row: Mapping[str, object]) -> dict[str, object]:
    score, place = row.get("score"), row.get("place")
    texts = {
        key: shorten(clean(row.get(key) or ""), _LETTERS)
        for key in ("source", "wanted", "written", "where", "by")
    }
    return {
        **texts,
        **dict(
            zip(
                ("wanted_parts", "written_parts"),
                marked_parts(texts["wanted"], texts["written"]),
                strict=True,
            )
        ),
        "score": f"{score:.1f}" if isinstance(score, (int, float)) else "",
        "place": place if place in _PLACES else "worst",
    }


def marked_parts(wanted: str, written: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in parts, with whether the other lacks it.

    Example:
        >>> marked_parts("two red cars", "two cars")
        ([('two ', False), ('red ', True), ('cars', False)], [('two ', False), ('cars', False)])
    """
    left, right = _HAN.findall(wanted), _HAN.findall(written)
    found: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for same, first, end, other_first, other_end in SequenceMatcher(
        None, left, right, autojunk=False
    ).get_opcodes():
        for parts, words in ((found[0], left[first:end]), (found[1], right[other_first:other_end])):
            if words:
                parts.append(("".join(words), same != "equal"))
    return found


def samples_view(run: Path) -> dict[str, object]:
    """What each prompt was continued with, a column an evaluation: the first, the last, and some between."""
    there = {
        int(match[1]): path for path in (run / "samples").glob("*") if (match := _NAME.fullmatch(path.name))
    }
    steps = sorted(there)
    if len(steps) > _MOST_STEPS:
        steps = [steps[round(place * (len(steps) - 1) / (_MOST_STEPS - 1))] for place in range(_MOST_STEPS)]
    columns = [(step, _records(there[step])) for step in steps]
    columns = [(step, records) for step, records in columns if records]
    if not columns:
        return {"sample_steps": [], "sample_rows": []}
    prompts = [_prompt(record) for record in columns[-1][1]]
    rows = [
        {"prompt": prompt, "texts": [_text(records, place) for _, records in columns]}
        for place, prompt in enumerate(prompts)
    ]
    return {"sample_steps": [step for step, _ in columns], "sample_rows": rows}


def _records(path: Path) -> Sequence[Mapping[str, object]]:
    """The records of a file that can be read; none of one that cannot."""
    found: list[Mapping[str, object]] = []
    with suppress(OSError, Damaged):
        if not path.is_symlink():
            for line in read_text(path, most_bytes=_MOST_BYTES).splitlines()[:_MOST_PROMPTS]:
                record = json_value(line)
                found += [record] if isinstance(record, Mapping) else []
    return found


def _prompt(record: Mapping[str, object]) -> str:
    messages = record.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], Mapping):
        return shorten(clean(messages[-1].get("content") or ""), _LETTERS)
    return shorten(
        clean(record.get("prompt") or record.get("source") or record.get("input_ids") or ""), _LETTERS
    )


def _text(records: Sequence[Mapping[str, object]], place: int) -> str:
    return shorten(clean(records[place].get("text") or ""), _LETTERS) if place < len(records) else ""

"""Questions about small texts, and files of them as SQuAD has them. Every answer is told by the word in front of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bigbatch.build.parts import Parts
from tests.exact import numbers
from tests.models import WORDS, tiny, tiny_tokenizer
from tests.split import SMALL, Rows, Trajectory, by_oracle, parts_of

ASKED = ("good", "bad", "great", "best")
"""Words that a question may ask for; the answer stands behind the one that it names."""


def question_rows(count: int, *, seed: int = 0, longest: int = 60, without: int = 0) -> list[dict[str, Any]]:
    """Rows of text, contexts of very uneven lengths; of every `without` questions one has no answer (0: none)."""
    plain = [word for word in WORDS if word.isalpha() and word not in ASKED]
    rows = []
    for number in range(count):
        drawn = numbers(seed + 1000 * number, longest + 8, 2**20)
        words = [
            plain[each % len(plain)]
            for each in drawn[: 4 + (drawn[-1] % longest) * (drawn[-2] % longest) // longest]
        ]
        asked, place = ASKED[drawn[-3] % len(ASKED)], drawn[-4] % (len(words) - 2)
        if without and number % without == 0:
            answers = []
        else:
            words[place] = asked
            end = place + 2 + drawn[-5] % 2
            start = len(" ".join(words[: place + 1])) + 1
            answers = [{"text": " ".join(words[place + 1 : end]), "answer_start": start}]
        rows.append(
            {
                "id": f"q{seed + number}",
                "question": f"my {asked} on",
                "context": " ".join(words),
                "answers": answers,
            }
        )
    return rows


def write_squad(path: Path, rows: Sequence[Mapping[str, Any]], version: str = "1.1", **how: Any) -> Path:
    """The rows as a SQuAD file, a paragraph each."""
    paragraphs = [
        {
            "context": row["context"],
            "qas": [{"id": row["id"], "question": row["question"], "answers": row["answers"]}],
        }
        for row in rows
    ]
    document = {"version": version, "data": [{"title": "tales", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(document, ensure_ascii=False, **how), encoding="utf-8")
    return path


# ---------------------------------------------------------------- for the tests of exactness

LENGTH, STRIDE = 24, 5


def reader(**config: Any) -> Any:
    """A tiny BERT that tells where an answer starts and ends. Whatever is added to all tokens alike in front of the softmax
    has a gradient of exactly zero, of which rounding alone could be compared: it is not trained.
    """
    found = tiny("bert", head="span", num_labels=2, **{**SMALL, **config})
    for name in ("qa_outputs.bias", "bert.encoder.layer.1.output.LayerNorm.bias"):
        found.get_parameter(name).requires_grad_(False)
    return found


def question_parts(module: nn.Module, rows: Rows, folder: Path, **keys: Any) -> Parts:
    """A copy of the module with the rows, ready to be trained to find answers through short windows."""
    settings = {
        "task": {"name": "span", "stride": STRIDE},
        "data": {"train": [], "max_length": LENGTH},
        "batch": 24,
        "clip": 0.1,
    }
    return parts_of(module, rows, "span", tokenizer=tiny_tokenizer(folder), **{**settings, **keys})


def windows_by_hand(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's windows as a textbook cuts them: every word here is one token, with one blank behind it."""
    number = {word: 5 + place for place, word in enumerate(WORDS)}
    question, context = ([number[word] for word in row[role].split()] for role in ("question", "context"))
    room = LENGTH - len(question) - 3
    firsts = [0]
    while firsts[-1] + room < len(context):
        firsts.append(firsts[-1] + room - STRIDE)
    span = None
    if row["answers"]:
        answer = row["answers"][0]
        begin = len(row["context"][: answer["answer_start"]].split())
        span = begin, begin + len(answer["text"].split()) - 1
    windows = []
    for first in firsts:
        shown = context[first : first + room]
        held = span is not None and first <= span[0] and span[1] < first + len(shown)
        start, end = (place - first + len(question) + 2 for place in span) if held else (0, 0)
        ids = [2, *question, 3, *shown, 3]
        segments = [0] * (len(question) + 2) + [1] * (len(shown) + 1)
        windows.append({"ids": ids, "segments": segments, "start": start, "end": end})
    return {"windows": windows}


def train_question_reference(module: nn.Module, parts: Parts, rows: Rows, updates: int) -> Trajectory:
    """The same updates by the oracle, no code of bigbatch beyond the order."""
    return by_oracle(
        module, parts, lambda _, number: windows_by_hand(rows[number]), updates, kind="span", pad_id=0
    )

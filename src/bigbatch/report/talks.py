"""Conversations on the page, as they are trained on: what is read on the left, what is learnt on the right."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bigbatch.report.text import clean, shorten
from bigbatch.stored import Damaged, read_object

FILE = "conversations.json"
_MOST, _MOST_PIECES, _LETTERS = 3, 40, 1500


def talks_view(run: Path) -> dict[str, object]:
    """What the run wrote before update 1, as the template reads it; nothing where there is no such file."""
    found: object = None
    with suppress(OSError, Damaged):
        found = read_object(run / FILE).get("conversations")
    talks = [_pieces(each) for each in found[:_MOST]] if isinstance(found, list) else []
    return {"talks": [talk for talk in talks if talk]}


def _pieces(found: object) -> list[dict[str, object]]:
    pieces = found[:_MOST_PIECES] if isinstance(found, list) else []
    return [
        {"text": shorten(clean(piece.get("text") or ""), _LETTERS), "learnt": piece.get("learnt") is True}
        for piece in pieces
        if isinstance(piece, Mapping)
    ]

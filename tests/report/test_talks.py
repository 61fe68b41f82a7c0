"""Conversations on the page: whatever their file says, it is text."""

from __future__ import annotations

import json

import pytest

from bigbatch.report.talks import FILE, talks_view

SAID = {"text": "<script>alert(1)</script>", "learnt": True}


@pytest.mark.parametrize(
    ("content", "talks"),
    [
        ({"conversations": [[SAID, {"text": None}], "x", []]}, [[SAID, {"text": "", "learnt": False}]]),
        ({"conversations": [[{**SAID, "learnt": "yes"}]]}, [[{**SAID, "learnt": False}]]),
        ({"conversations": 7}, []),
        ([], []),
        (None, []),
    ],
)
def test_what_is_no_conversation_is_left_out(tmp_path, content, talks):
    if content is not None:
        (tmp_path / FILE).write_text(json.dumps(content))
    assert talks_view(tmp_path) == {"talks": talks}

"""`init` recognises conversations, in each of their forms, and nothing else."""

from __future__ import annotations

import json

import pytest

from bigbatch.data.first import first_row
from bigbatch.data.guess import profile
from bigbatch.recipe.starter import write_starter
from bigbatch.turns import holds_conversations
from tests.chats import talk

HI = [{"from": "human", "value": "Hi there"}, {"from": "gpt", "value": "Hello you"}]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": talk(1)[0]["messages"]}, "{messages: messages}"),
        ({"conversations": HI, "id": "a"}, "{messages: conversations, id: id}"),
        ({"prompt": "who sleeps", "completion": "the fish"}, "{prompt: prompt, completion: completion}"),
        ({"instruction": "who", "output": "me"}, "{instruction: instruction, output: output}"),
    ],
)
def test_conversations_are_recognised(tmp_path, row, columns):
    (tmp_path / "talks.jsonl").write_text("\n".join([json.dumps(row)] * 80))
    found = profile(tmp_path / "talks.jsonl")
    write_starter(tmp_path / "r.yaml", found)
    recipe = (tmp_path / "r.yaml").read_text()
    assert "task: chat" in recipe and f"columns: {columns}" in recipe
    assert found.words["p50"] > 1


@pytest.mark.parametrize(
    "row",
    [
        {"messages": "a text"},
        {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"},
        {"text": "a", "label": 1},
        {},
    ],
)
def test_other_rows_are_no_conversations(row):
    assert not holds_conversations(row)


def test_the_first_row_of_any_dataset_in_memory():
    rows = talk(2)
    assert holds_conversations(first_row(rows))
    assert first_row("talks.jsonl") == first_row([]) == first_row(None) == first_row({"a": [1]}) == {}

"""Conversations of every form are brought to one, through every way that rows come in."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from bigbatch.data.sources import read_table
from bigbatch.errors import DataError
from bigbatch.infer.unlabelled import rows_of_object
from bigbatch.tasks.chat import Chat
from bigbatch.turns import conversation_of

ROLES = Chat().roles
HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
WANTED = json.dumps({"messages": HI})
FORMS = {
    "messages": {"messages": HI},
    "as text": {"messages": json.dumps(HI)},
    "parts": {
        "messages": [
            {**HI[0], "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
            HI[1],
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "columns": {"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}},
    "texts": {"prompt": "Hi", "completion": "Hello"},
    "lists": {"prompt": HI[:1], "completion": HI[1:]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "capitals": {"Messages": [{"role": "User", "content": "Hi"}, {"role": "bot", "content": "Hello"}]},
}


def texts(table):
    return table.rows.column("messages").to_pylist()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_way_in_gives_the_same(tmp_path, form):
    row = {"id": "a", **FORMS[form]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    ways = ["rows.jsonl", [row], {name: [value] for name, value in row.items()}]
    if form not in ("columns", "parts"):  # Arrow has no mixed lists
        pa.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
        ways.append("rows.parquet")
    for way in ways:
        table = read_table(way, base=tmp_path, columns={}, roles=ROLES)
        assert texts(table) == [WANTED]
        assert table.rows.column("id").to_pylist() == ["a"]
    objects = [row, [row], *([] if form == "columns" else ways[2:3])]
    for given in objects:
        [(_, found)] = rows_of_object(given, roles=ROLES, columns={})
        assert found["messages"] == WANTED


def test_columns_have_the_names_that_the_recipe_says():
    rows = [{"q": "Hi", "a": "Hello", "messages": "a column of something else"}]
    table = read_table(rows, base=Path(), columns={"prompt": "q", "completion": "a"}, roles=ROLES)
    assert texts(table) == [WANTED]
    table = read_table([{"talk": HI}], base=Path(), columns={"messages": "talk"}, roles=ROLES)
    assert texts(table) == [WANTED]
    with pytest.raises(DataError, match="no column for the messages"):
        read_table([{"text": "Hi"}], base=Path(), columns={}, roles=ROLES)


def test_what_belongs_to_a_turn_stays_and_what_arrow_filled_in_goes():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    rows = [
        {
            "messages": [HI[0], {"role": "assistant", "tool_calls": [call]}],
            "tools": '[{"name": "add"}]',
            "system": "Add.",
        },
        {"messages": [HI[0], {**HI[1], "weight": 0, "name": "Bob"}], "tools": None, "system": None},
    ]
    first, second = texts(read_table(pa.Table.from_pylist(rows), base=Path(), columns={}, roles=ROLES))
    assert json.loads(first) == {
        "messages": [
            {"role": "system", "content": "Add."}, HI[0],
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        "tools": [{"name": "add"}],
    }  # fmt: skip
    assert json.loads(second) == {"messages": [HI[0], {**HI[1], "weight": 0, "name": "Bob"}]}


def test_answers_of_a_prompt_are_not_learnt():
    found = json.loads(conversation_of({"prompt": [*HI, HI[0]], "completion": HI[1:]}) or "")
    assert [each.get("weight") for each in found["messages"]] == [None, 0, None, None]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([{"content": "Hi"}], "turn 1: no role"),
        (["Hi"], "turn 1: expected an object with role and content, found str"),
        ([{"role": "user"}], "turn 1: user says nothing"),
        ([{"role": "user", "content": 5}], "turn 1: expected text, found int"),
        ([{"role": "user", "content": [{"type": "image"}]}], "found a part of content that is image"),
        ([*HI, {**HI[1], "weight": 2}], "turn 3: weight: found 2"),
        ([{**HI[1], "tool_calls": "x"}], "tool_calls: expected a list"),
        ({"role": "user", "content": "Hi"}, "found one message; expected a list"),
        (7, "expected a list of messages, found int"),
        ("[{", "a conversation as text has to be JSON"),
        ([{**HI[0], "content": "\ud800"}], "half a surrogate pair"),
        ([{**HI[0], "at": b"x"}], "expected what JSON can hold"),
        ({"messages": HI, "tools": [5]}, "tools: expected a list of objects"),
        (json.loads("[" * 60 + "]" * 60), "nested more than 50 deep"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_turn(value, what):
    with pytest.raises(ValueError, match=what):
        conversation_of(value)
    bad = value if isinstance(value, dict) and "tools" in value else {"messages": value}
    with pytest.raises(DataError, match=f"row 2: messages: .*{what}"):
        read_table([{"messages": HI}, bad], base=Path(), columns={}, roles=ROLES)


@pytest.mark.parametrize("value", [None, [], "", " ", float("nan")])
def test_a_conversation_without_turns_is_missing(value):
    assert conversation_of(value) is None
    table = read_table(
        [{"messages": HI}, {"messages": value}], base=Path(), columns={}, roles=ROLES, empty_text="drop"
    )
    assert len(table) == 1 and "empty" in table.warnings[0]

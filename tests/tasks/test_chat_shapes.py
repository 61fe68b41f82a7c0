"""Rows of odd shapes: which tokens count is what a hand has marked, whatever the turns are like."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.errors import DataError
from bigbatch.tasks.chat import Chat
from bigbatch.turns import conversation_of, conversation_row
from tests.chats import chat_tokenizer

GREETING = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2 = (Path(__file__).parent / "templates" / "smollm2.jinja").read_text()
"""It writes a system turn of its own, and marks no answer."""


def turn(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def by_hand(*stretches: str) -> tuple[str, list[str]]:
    """The whole text, and what counts of it: stretches in brackets, [[so]]."""
    text = "".join(stretches)
    return text.replace("[[", "").replace("]]", ""), [
        part.partition("]]")[0] for part in text.split("[[")[1:]
    ]


def turned(role: str, said: str) -> str:
    """A turn in ChatML; an answer and its end mark count."""
    body = f"[[{said}<|im_end|>]]" if role == "assistant" else f"{said}<|im_end|>"
    return f"<|im_start|>{role}\n{body}\n"


SHAPES = {
    "a system turn amid": [("user", "why"), ("assistant", "the fish"), ("system", "be old"), ("user", "a"), ("assistant", "boats")],
    "two of the user": [("user", "the red"), ("user", "fish asks"), ("assistant", "why seven")],
    "two of the assistant": [("user", "the red"), ("assistant", "fish"), ("assistant", "sings"), ("user", "a")],
    "begins with an answer": [("assistant", "the bridge"), ("user", "why"), ("assistant", "nobody")],
    "ends with the user": [("user", "why"), ("assistant", "sleep"), ("user", "under a bridge")],
    "an empty question": [("user", ""), ("assistant", "the fish")],
    "other alphabets": [("user", "¿por qué? 为什么 🐟"), ("assistant", "сон 睡眠 👩‍👩‍👧 e\u0301\u200b ﷽")],
    "texts like marks": [("user", "assistant\nthe fish"), ("assistant", "user\nwhy\nassistant\n")],
    "blanks around": [("user", "  why \n"), ("assistant", "\n  the fish \n\n")],
    "the same answer twice": [("user", "why"), ("assistant", "sleep"), ("user", "why"), ("assistant", "sleep")],
}  # fmt: skip


@pytest.mark.parametrize("template", ["chatml", "smollm2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_counts_is_what_a_hand_has_marked(shape, template):
    turns = SHAPES[shape]
    opening = [turned("system", GREETING)] if template == "smollm2" and turns[0][0] != "system" else []
    text, counting = by_hand(*opening, *(turned(*each) for each in turns))
    check([turn(*each) for each in turns], text, counting, template)


def check(messages, text: str, counting: list[str], template: str = "chatml", **row: object) -> None:
    tokenizer = chat_tokenizer(SMOLLM2 if template == "smollm2" else template)
    found = conversation_of({"messages": messages, **row})
    [sample] = Chat().with_facts(max_length=500).encode_batch([{"messages": found}], tokenizer)
    assert tokenizer.decode(sample.ids) == text
    at, said = sample.reads + 1, []
    for place, token, weight in zip(at, sample.values, sample.weights, strict=True):
        assert sample.ids[place] == token and weight == 1
        if said and place == said[-1][-1] + 1:
            said[-1].append(place)
        else:
            said.append([place])
    # Answers that stand side by side are apart by their heads.
    assert [tokenizer.decode(sample.ids[each]) for each in said] == counting


def test_an_empty_answer_is_its_end_mark():
    text, counting = by_hand(turned("user", "why"), turned("assistant", ""))
    check([turn("user", "why"), turn("assistant", "")], text, counting)


TOOLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] %}{{ m['content'] }}{% endif %}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'][0]['function']['name'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_call_without_words_counts_and_what_the_tool_says_does_not():
    call = {"id": "1", "type": "function", "function": {"name": "sings", "arguments": "{}"}}
    messages = [
        turn("user", "why"),
        turn("assistant", None, tool_calls=[call]),
        turn("tool", "seven", tool_call_id="1"),
        turn("assistant", "seven boats"),
    ]
    stretches = [("user", "why"), ("assistant", "sings"), ("tool", "seven"), ("assistant", "seven boats")]
    check(messages, *by_hand(*(turned(*each) for each in stretches)), template=TOOLS)


FORMS = [
    {"conversations": [{"from": "human", "value": "why"}, {"from": "gpt", "value": "the fish"}]},
    {"conversations": [{"from": "user", "value": "why"}, {"from": "assistant", "value": "the fish"}]},
    {"instruction": "why", "output": "the fish"},
    {"instruction": "why", "input": "", "output": "the fish"},
    {"prompt": "why", "completion": "the fish"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "why"}]}, {"role": "assistant", "content": "the fish"}]},
]  # fmt: skip


@pytest.mark.parametrize("row", FORMS, ids=lambda row: "-".join(row))
def test_every_usual_form_is_the_same_conversation(row):
    tokenizer = chat_tokenizer()
    found = conversation_of(conversation_row(row, {}, "messages")["messages"])
    [sample] = Chat().with_facts(max_length=500).encode_batch([{"messages": found}], tokenizer)
    assert tokenizer.decode(sample.ids) == by_hand(turned("user", "why"), turned("assistant", "the fish"))[0]
    assert tokenizer.decode(sample.values) == "the fish<|im_end|>"


def test_an_instructions_input_stands_behind_it():
    found = conversation_of({"instruction": "why", "input": "the red fish", "output": "sings"})
    [sample] = Chat().with_facts(max_length=500).encode_batch([{"messages": found}], chat_tokenizer())
    text = chat_tokenizer().decode(sample.ids)
    assert (
        text.index("why") < text.index("the red fish") < text.index("sings")
        and text.count("<|im_start|>") == 2
    )


@pytest.mark.parametrize(
    "messages",
    [
        [turn("user", "why"), turn("assistant", 7)],
        [turn("user", "why"), {"role": "assistant"}],
        [turn("user", "why"), turn("", "the fish")],
    ],
)
def test_what_is_no_turn_is_refused(messages):
    with pytest.raises(ValueError, match="turn 2"):  # whoever reads the rows says of which
        conversation_of({"messages": messages})


def test_an_answer_to_nothing_is_learnt_where_the_template_asks_for_it():
    """Of a template whose head of an answer is another one in the middle, nobody knows where the answer begins."""
    template = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
    with pytest.raises(DataError, match="turn 1: the conversation begins with an answer"):
        check([turn("assistant", "why"), turn("user", "fish")], "", [], template=template)

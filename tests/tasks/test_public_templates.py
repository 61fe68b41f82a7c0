"""Chat templates of public models, as their makers wrote them: what counts is what a hand has marked in their text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bigbatch.errors import DataError
from bigbatch.tasks.chat import Chat
from bigbatch.tasks.chat_rows import TURNS, UNMARKED
from bigbatch.turns import conversation_of
from tests.chats import chat_tokenizer

FOLDER = Path(__file__).parent / "templates"
_MARK = re.compile(r"<\|[\w▁]+\|>|<｜[^｜]+｜>|</?[a-z]\w*>|\[gMASK\]")
TALK = [
    {"role": "user", "content": "why the fish"},
    {"role": "assistant", "content": "seven old boats"},
    {"role": "user", "content": "who sings"},
    {"role": "assistant", "content": "nobody sings"},
]
SYSTEM = [{"role": "system", "content": "be old"}, *TALK]

CHATML = (
    "<|im_start|>user\nwhy the fish<|im_end|>\n<|im_start|>assistant\n[[seven old boats<|im_end|>]]\n"
    "<|im_start|>user\nwho sings<|im_end|>\n<|im_start|>assistant\n[[nobody sings<|im_end|>]]\n"
)
LLAMA3 = (
    "<|start_header_id|>user<|end_header_id|>\n\nwhy the fish<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[seven old boats<|eot_id|>]]"
    "<|start_header_id|>user<|end_header_id|>\n\nwho sings<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[nobody sings<|eot_id|>]]"
)
GEMMA = (
    "<s><start_of_turn>user\nwhy the fish<end_of_turn>\n<start_of_turn>model\n[[seven old boats<end_of_turn>]]\n"
    "<start_of_turn>user\nwho sings<end_of_turn>\n<start_of_turn>model\n[[nobody sings<end_of_turn>]]\n"
)
PHI3 = (
    "<|user|>\nwhy the fish<|end|>\n<|assistant|>\n[[seven old boats<|end|>]]\n"
    "<|user|>\nwho sings<|end|>\n<|assistant|>\n[[nobody sings<|end|>\n</s>]]"
)
"""`<s>` and `</s>` are the tokenizer's own marks, wherever a template asks for those. Phi-3 writes the end mark once,
behind the last turn of all."""
BY_HAND: dict[str, tuple[list[dict[str, str]], str]] = {
    "smollm2": (
        TALK,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        + CHATML,
    ),
    "smollm2 with a system turn": (SYSTEM, "<|im_start|>system\nbe old<|im_end|>\n" + CHATML),
    "qwen2_5": (
        TALK,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        + CHATML,
    ),
    "lfm2": (TALK, "<s>" + CHATML),
    "lfm2 with a system turn": (SYSTEM, "<s><|im_start|>system\nbe old<|im_end|>\n" + CHATML),
    "llama3": (TALK, "<s>" + LLAMA3),
    "llama3_2": (
        SYSTEM,
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nbe old<|eot_id|>" + LLAMA3,
    ),
    "gemma": (TALK, GEMMA),
    "gemma3": (TALK, GEMMA),
    "gemma3 with a system turn": (SYSTEM, GEMMA.replace("user\nwhy", "user\nbe old\n\nwhy")),
    "phi3": (TALK, PHI3),
    "phi3_5": (SYSTEM, "<|system|>\nbe old<|end|>\n" + PHI3),
    "cohere": (
        TALK,
        "<s><|START_OF_TURN_TOKEN|><|USER_TOKEN|>why the fish<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>[[seven old boats<|END_OF_TURN_TOKEN|>]]"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>who sings<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>[[nobody sings<|END_OF_TURN_TOKEN|>]]",
    ),
    "glm4moe": (
        TALK,
        "[gMASK]<sop><|user|>\nwhy the fish<|assistant|>[[\n<think></think>\nseven old boats]]"
        "<|user|>\nwho sings<|assistant|>[[\n<think></think>\nnobody sings]]",
    ),
}


def tokenizer_of(name: str) -> Any:
    """With every mark of the template."""
    source = (FOLDER / f"{name.partition(' ')[0]}.jinja").read_text()
    found = chat_tokenizer(source)
    marks = sorted({*_MARK.findall(source)} - {*found.get_vocab()})
    found.add_special_tokens({"additional_special_tokens": marks})
    return found


def read(name: str, messages: object, turns: Any = "all", **row: object) -> tuple[str, Any, Any]:
    """The whole text with what counts in brackets, the sample, and the tokenizer."""
    tokenizer = tokenizer_of(name)
    task = Chat(turns=turns).with_facts(max_length=2000)
    [sample] = task.encode_batch([{"messages": conversation_of({"messages": messages, **row})}], tokenizer)
    counts = [False] * (len(sample.ids) + 1)
    for place, weight in zip((sample.reads + 1).tolist(), sample.weights.tolist(), strict=True):
        counts[place] = weight == 1
    parts = []
    for place, token in enumerate(sample.ids.tolist()):
        parts += ["[["] if counts[place] and not counts[place - 1] else []
        parts += [tokenizer.decode([token])]
        parts += ["]]"] if counts[place] and not counts[place + 1] else []
    return "".join(parts), sample, tokenizer


@pytest.mark.parametrize("name", BY_HAND)
def test_what_counts_is_what_a_hand_has_marked(name: str) -> None:
    messages, expected = BY_HAND[name]
    found, sample, _ = read(name, messages)
    assert found == expected
    unmarked = (sample.streams[TURNS]["faults"] & UNMARKED > 0).any()
    assert unmarked == (name == "glm4moe"), "GLM writes no end mark: that is said"


def test_a_call_of_a_tool_counts_and_its_answer_does_not() -> None:
    call = {"type": "function", "function": {"name": "sings", "arguments": {"who": "fish"}}}
    messages = [
        {"role": "user", "content": "why"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "seven"},
        {"role": "assistant", "content": "seven boats"},
    ]
    found, _, _ = read("qwen2_5", messages)
    assert found.endswith(
        '<|im_start|>assistant\n[[<tool_call>\n{"name": "sings", "arguments": {"who": "fish"}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\nseven\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n[[seven boats<|im_end|>]]\n"
    )


def test_a_template_that_writes_earlier_answers_otherwise_teaches_the_last_alone() -> None:
    with pytest.raises(DataError, match=r"turn 2.*otherwise once others follow.*task\.turns: last"):
        read("qwen3", TALK)
    found, _, _ = read("qwen3", TALK, turns="last")
    assert found == CHATML.replace("[[seven old boats<|im_end|>]]", "seven old boats<|im_end|>").replace(
        "[[nobody", "[[<think>\n\n</think>\n\nnobody"
    )


def test_what_does_not_help_is_not_recommended() -> None:
    for turns in ("all", "last"):
        with pytest.raises(
            DataError, match=r"otherwise when it asks for the answer.*generation %} marks"
        ) as caught:
            read("deepseekv3", TALK, turns=turns)
        assert "task.turns" not in str(caught.value)


@pytest.mark.parametrize("template", ["smolvlm"])
def test_a_template_that_leaves_texts_out_is_refused(template: str) -> None:
    """It would learn the end mark alone."""
    with pytest.raises(DataError, match="leaves the answer's words out.*task.template: chatml"):
        read(template, TALK)
    with pytest.raises(DataError, match="leaves the answer's words out"):
        read(template, TALK, turns="last")


def test_every_template_is_used() -> None:
    used = {name.partition(" ")[0] for name in BY_HAND} | {"qwen3", "deepseekv3", "smolvlm"}
    assert used == {path.stem for path in FOLDER.glob("*.jinja")}

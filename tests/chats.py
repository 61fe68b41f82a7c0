"""Conversations for tests: five templates, each with the text that it has to give, written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from bigbatch.build.parts import Parts
from tests.models import tiny
from tests.split import Rows, Trajectory, by_oracle, parts_of

Message = dict[str, Any]
MARKS = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>",
)  # fmt: skip
WORDS = [
    "the",
    "red",
    "fish",
    "asks",
    "why",
    "seven",
    "old",
    "boats",
    "sleep",
    "under",
    "a",
    "green",
    "bridge",
    "while",
    "nobody",
    "sings",
]
_MESSAGE = "{% for m in messages %}"
TEMPLATES = {
    "chatml": _MESSAGE + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{{ bos_token }}" + _MESSAGE + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral": "{{ bos_token }}" + _MESSAGE + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "gemma": "{{ bos_token }}" + _MESSAGE + "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else "
    "m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "zephyr": _MESSAGE + "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
}  # fmt: skip


def written(name: str, messages: Sequence[Message]) -> list[tuple[str, float]]:
    """(text, how much it counts) of each stretch, by hand: the oracle."""
    found: list[tuple[str, float]] = [] if name in ("chatml", "zephyr") else [("<s>", 0)]
    for message in messages:
        role, said = message["role"], message["content"]
        own = message.get("weight", 1.0) if role == "assistant" else 0
        if name == "chatml":
            found += [(f"<|im_start|>{role}\n", 0), (f"{said}<|im_end|>", own), ("\n", 0)]
        elif name == "llama3":
            head = f"<|start_header_id|>{role}<|end_header_id|>\n\n"
            found += [(head, 0), (f"{said.strip()}<|eot_id|>", own)]
        elif name == "mistral":
            found += [(f" {said}</s>", own)] if role == "assistant" else [(f"[INST] {said} [/INST]", 0)]
        elif name == "gemma":
            head = f"<start_of_turn>{'model' if role == 'assistant' else role}\n"
            found += [(head, 0), (f"{said.strip()}<end_of_turn>", own), ("\n", 0)]
        else:
            found += [(f"<|{role}|>\n", 0), (f"{said}</s>", own), ("\n", 0)]
    return found


@cache
def _trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS * 2), "assistant user system model"], trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return tokenizer


def chat_tokenizer(template: str | None = "chatml") -> Any:
    """A byte-level BPE with every mark of the templates; `template`: a name, or its own text."""
    found: Any = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(_trained()), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    found.chat_template = None if template is None else TEMPLATES.get(template, template)
    return found


def talk(
    count: int, *, seed: int = 0, system: bool = False, most_turns: int = 3, weights: Sequence[float] = (0,)
) -> list[dict[str, list[Message]]]:
    """Conversations of one to three exchanges, of very uneven lengths; some turns count less."""
    random = np.random.default_rng(seed)

    def text(longest: int) -> str:
        return " ".join(random.choice(WORDS, int(random.integers(1, longest))))

    rows = []
    for _ in range(count):
        messages: list[Message] = [{"role": "system", "content": text(5)}] if system else []
        for _ in range(int(random.integers(1, most_turns + 1))):
            answer: Message = {"role": "assistant", "content": text(12)}
            if random.random() < 0.2:
                answer["weight"] = float(random.choice(weights))
            messages += [{"role": "user", "content": text(9)}, answer]
        rows.append({"messages": messages})
    return rows


def by_hand(name: str, messages: Sequence[Message], tokenizer: Any) -> tuple[list[int], list[float]]:
    """Token ids, and how much each counts. Stretches are tokenised one by one: no token of these templates crosses
    their borders.
    """
    ids: list[int] = []
    weights: list[float] = []
    for text, own in written(name, messages):
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, weights = [*ids, *found], [*weights, *[own] * len(found)]
    return ids, weights


def chat_model(**config: Any) -> nn.Module:
    """A tiny causal model for `chat_tokenizer`."""
    sizes = {"n_embd": 16, "n_head": 2, "n_positions": 192, "vocab_size": len(chat_tokenizer())}
    return tiny("gpt2", head="causal", initializer_range=0.05, **{**sizes, **config})


def chat_parts(module: nn.Module, rows: Rows, *, template: str = "chatml", **keys: Any) -> Parts:
    """A copy of the module with the rows, ready to be trained."""
    settled = {"task": "chat", "batch": 24, "optimizer": {"lr": 1e-3, "weight_decay": 0.01}, **keys}
    return parts_of(module, rows, "chat", tokenizer=chat_tokenizer(template), **settled)


def train_chat_reference(
    module: nn.Module, parts: Parts, rows: Rows, updates: int, *, template: str = "chatml"
) -> Trajectory:
    """The same updates by the oracle: rows rendered and masked by hand."""
    tokenizer = chat_tokenizer(template)

    def row_of(_: int, number: int) -> dict[str, Any]:
        ids, weights = by_hand(template, rows[number]["messages"], tokenizer)
        own = [place for place in range(1, len(ids)) if weights[place]]
        return {
            "ids": ids,
            "targets": {place - 1: ids[place] for place in own},
            "weights": {place - 1: weights[place] for place in own},
        }

    return by_oracle(module, parts, row_of, updates, kind="language", pad_id=0)

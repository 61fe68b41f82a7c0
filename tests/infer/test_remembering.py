"""Texts of models with a memory: each token behind what training would have shown it, recomputed from nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import bigbatch
from bigbatch import answers
from bigbatch.data.order import mixed, mixed_with, splitmix64
from bigbatch.errors import UsageError
from bigbatch.infer import texts
from bigbatch.infer.load import Loaded, open_live, open_model
from bigbatch.infer.prompts import prompts_of, rows_of_prompts
from bigbatch.infer.remembering import Pieces
from bigbatch.infer.sampling import _STREAM, Decoding
from bigbatch.infer.texts import written_texts
from bigbatch.tasks.clm import CausalLM
from tests.jobs import exhaust, start
from tests.language import documents
from tests.models import tiny, tiny_folder

PIECE, MEMORY, WRITTEN = 6, 7, 14
LENGTHS = (1, 3, PIECE, PIECE + 1, 30)
"""Of prompts: within a piece, at its border, longer than all positions."""
POSITIONS = 24
BOUNDS = {"float64": 1e-10, "float32": 1e-5}


def writer(kind: str, dtype: str = "float64", memory: int = MEMORY) -> Loaded:
    """A model that never ends a text by itself."""
    if kind == "neox":  # without a norm that computes in fp32
        settings = GPTNeoXConfig(
            vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=POSITIONS, initializer_range=0.3,
        )  # fmt: skip
        torch.manual_seed(0)
        module: Any = GPTNeoXForCausalLM(settings).eval()
    else:
        module = tiny("llama", head="causal", max_position_embeddings=POSITIONS)
    module.config.eos_token_id = module.generation_config.eos_token_id = None
    module.config.bigbatch_memory = memory
    opened = open_live(module.to(getattr(torch, dtype)), None, CausalLM(), ["input_ids"], "cpu")
    assert opened.task.facts.block_length == POSITIONS - memory  # of a folder that says no length
    facts = opened.task.with_facts(block_length=PIECE)
    return replace(opened, task=facts)


def rows() -> list[dict[str, list[int]]]:
    random = np.random.default_rng(0)
    return [{"input_ids": random.integers(3, 90, length).tolist()} for length in LENGTHS]


def shown(ids: list[int]) -> list[int]:
    """What is read to write the next token: cut as training cuts a document, and what lies in front of its piece."""
    document = [*ids, 0]
    for first in range(0, len(document) - 1, PIECE - 1):
        piece = range(first, min(first + PIECE, len(document)))
        if len(document) - 1 in piece[1:]:
            return ids[max(0, first - MEMORY) :]
    raise AssertionError


def by_hand(
    opened: Loaded,
    ids: list[int],
    pick: Callable[[int, torch.Tensor], int],
    context: Callable[..., list[int]],
) -> tuple[list[int], list[torch.Tensor]]:
    """Tokens and their logits, each by a pass over its context alone."""
    ids, found, module = list(ids), [], opened.module
    first = len(ids)
    for step in range(WRITTEN):
        with torch.inference_mode():
            logits = module(input_ids=torch.tensor([context(ids)]), use_cache=False).logits[0, -1]  # type: ignore
        found.append(logits)
        ids.append(pick(step, logits))
    return ids[first:], found


def likeliest(_step: int, logits: torch.Tensor) -> int:
    return int(logits.argmax())


def drawn(row: int, seed: int, temperature: float) -> Callable[[int, torch.Tensor], int]:
    def pick(step: int, logits: torch.Tensor) -> int:
        state = np.full(1, mixed(seed, _STREAM), np.uint64)
        state = mixed_with(mixed_with(state, np.array([row])), np.array([step]))
        numbers = splitmix64(int(state[0]), 0, len(logits)) >> np.uint64(11)
        fractions = numbers.astype(float) * 2.0**-53 + 2.0**-54
        return int((logits.double() / temperature - torch.from_numpy(np.log(-np.log(fractions)))).argmax())

    return pick


def texts_of(opened: Loaded, given: Any, **how: Any) -> dict[int, list[int]]:
    prompts = prompts_of(rows_of_prompts(given, opened), opened)
    found = written_texts(opened, prompts, Decoding(max_tokens=WRITTEN, **how))
    return {prompt.number: list(map(int, text.text.split())) for prompt, text in found}


@pytest.mark.parametrize("way", ["greedy", "drawn"])
@pytest.mark.parametrize(("kind", "dtype"), [("neox", "float64"), ("neox", "float32"), ("llama", "float64")])
def test_every_token_is_written_behind_what_training_shows(kind: str, dtype: str, way: str) -> None:
    opened, how = writer(kind, dtype), {} if way == "greedy" else {"temperature": 1.5, "seed": 4}
    together = texts_of(opened, rows(), **how)
    apart = texts_of(replace(opened, micro_tokens=1), rows(), **how)
    whole, carried = 0, 0
    for number, row in enumerate(rows()):
        pick = likeliest if way == "greedy" else drawn(number, 4, 1.5)
        expected, _ = by_hand(opened, row["input_ids"], pick, shown)
        assert together[number] == apart[number] == expected, number
        careless = by_hand(opened, row["input_ids"], pick, lambda ids: ids[-MEMORY - PIECE :])[0]
        carried += careless != expected
        whole += (
            texts_of(writer_without(opened), [row], **how)[0] != expected if len(row["input_ids"]) < 2 else 0
        )
    assert carried >= 3 and whole == 1


def writer_without(opened: Loaded) -> Loaded:
    return replace(opened, task=opened.task.with_facts(memory=0), positions=None)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_logits_are_those_of_the_context_alone(dtype: str) -> None:
    opened = writer("neox", dtype)
    seen: list[torch.Tensor] = []
    hook = opened.module.register_forward_hook(
        lambda _m, _i, output: seen.append(output.logits[:, -1].clone())
    )
    for row in rows():
        seen.clear()
        texts_of(opened, [row])
        hooked = list(seen)
        _, expected = by_hand(opened, row["input_ids"], likeliest, shown)
        assert len(hooked) == WRITTEN
        for ours, theirs in zip(hooked, expected, strict=True):
            error = float((ours[0] - theirs).abs().max() / theirs.abs().max())
            assert error < BOUNDS[dtype]
    hook.remove()


def test_pieces_that_come_are_those_of_the_text_and_a_watcher_ends_one() -> None:
    opened = writer("llama")
    whole, told = texts_of(opened, rows()), {}
    prompts = prompts_of(rows_of_prompts(rows(), opened), opened)

    def watch(prompt: Any, piece: str) -> bool:
        told[prompt.number] = told.get(prompt.number, "") + piece
        return prompt.number == 2 and len(told[2].split()) >= 9

    found = dict(
        (prompt.number, text.text)
        for prompt, text in written_texts(opened, prompts, Decoding(max_tokens=WRITTEN), watch=watch)
    )
    for number, ids in whole.items():
        if number != 2:
            assert list(map(int, told[number].split())) == list(map(int, found[number].split())) == ids
    assert list(map(int, told[2].split()))[:9] == whole[2][:9] and len(told[2].split()) <= 9 + PIECE


def test_an_end_mark_in_a_later_piece_ends_a_text_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = writer("llama")
    whole = texts_of(opened, rows(), temperature=1.5)
    mark = next(token for token in whole[0][10:] if token not in whole[0][:10])
    opened.module.generation_config.eos_token_id = mark  # type: ignore[union-attr]
    prompts = prompts_of(rows_of_prompts(rows(), opened), opened)
    found = written_texts(opened, prompts, Decoding(max_tokens=WRITTEN, temperature=1.5))
    for prompt, text in found:
        ids = whole[prompt.number]
        at = ids.index(mark) if mark in ids else len(ids)
        assert list(map(int, text.text.split())) == ids[:at]
        assert (text.end, text.tokens) == ("stop" if at < len(ids) else "length", at)


def test_ranks_that_share_a_model_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = writer("llama")
    expected = texts_of(opened, rows())
    mark = expected[4][3]
    opened.module.generation_config.eos_token_id = mark  # type: ignore[union-attr]
    steps: list[tuple[int, int]] = []
    plain = texts.stepwise

    def stepwise(outer: Any, batch: Any, most: int) -> np.ndarray:
        steps.append((len(batch.rows_B), most))
        return plain(outer, batch, most)

    monkeypatch.setattr(texts, "stepwise", stepwise)
    made = texts._Writer.__init__

    def divided(self: Any, *given: Any) -> None:
        made(self, *given)
        self._divided = True

    monkeypatch.setattr(texts._Writer, "__init__", divided)
    found = texts_of(opened, rows())
    for number, ids in expected.items():
        assert found[number] == (ids[: ids.index(mark)] if mark in ids else ids)
    assert any(mark in ids[:-PIECE] for ids in expected.values())
    # Rounds follow from lengths alone: what one rank finds ends no other's.
    rounds, left = [], {length: WRITTEN for length in LENGTHS}
    while any(left.values()):
        rooms = {n: min(m, PIECE - 1 - (n + WRITTEN - m - 1) % (PIECE - 1)) for n, m in left.items() if m}
        rounds.append((len(rooms), max(rooms.values())))
        left = {n: m - rooms.get(n, 0) for n, m in left.items()}
    assert steps == rounds


def test_beams_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model", "llama", head="causal", bigbatch_memory=8)
    with pytest.raises(UsageError, match="beams: this model has a memory"):
        bigbatch.generate(folder, ["the flight"], beams=2)
    (tmp_path / "prompts.txt").write_text("the flight\n")
    with pytest.raises(UsageError, match="beams: this model has a memory"):
        answers.generate_command(
            folder, tmp_path / "prompts.txt", tmp_path / "out.jsonl", say=str, show=str, beams=2
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "prompts.txt"]
    assert bigbatch.generate(folder, ["the flight"], beams=1, max_tokens=3)[0]["tokens"] in range(4)


def test_evaluations_of_a_run_write_as_generate_does(tmp_path: Path) -> None:
    module = tiny("llama", head="causal", max_position_embeddings=POSITIONS)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    keys = {
        "task": "clm", "model.memory": MEMORY, "data.max_length": PIECE, "batch": 8, "updates": 2,
        "run.prompts": str(prompts), "run.prompt_tokens": WRITTEN,
    }  # fmt: skip
    given = documents(20)
    exhaust(start(tmp_path / "run", module, rows=given, validation=given[:4], set=keys))
    written = [
        json.loads(line) for line in (tmp_path / "run/samples/step-000002.jsonl").read_text().splitlines()
    ]
    again = bigbatch.generate(tmp_path / "run", prompts, max_tokens=WRITTEN)
    assert [each["text"] for each in written] == [each["text"] for each in again]
    opened = open_model(tmp_path / "run", device="cpu")
    ends = texts._causal_marks(opened).ends
    for row, each in zip(rows(), again, strict=True):
        expected, _ = by_hand(opened, row["input_ids"], likeliest, shown)
        at = next((place for place, token in enumerate(expected) if token in ends), WRITTEN)
        assert list(map(int, str(each["text"]).split())) == expected[:at]


def test_borders_are_those_of_pieces_one_by_one() -> None:
    pieces = Pieces(piece_tokens=PIECE, memory_tokens=MEMORY)
    for tokens in range(1, 60):
        ids = list(range(tokens))
        assert shown(ids)[0] == pieces.begin(tokens)
        room = pieces.room(tokens)
        begins = [pieces.begin(tokens + more) for more in range(room)]
        firsts = {(tokens + more - 1) // (PIECE - 1) for more in range(room)}
        assert len(set(begins)) == len(firsts) == 1 and (tokens + room - 1) % (PIECE - 1) == 0

"""Texts of prompts: what each would be alone, in whatever batch; where they end; files that go on; refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import bigbatch
from bigbatch import answers
from bigbatch.data.order import mixed, mixed_with, splitmix64
from bigbatch.errors import DataError, UsageError
from bigbatch.infer import texts
from bigbatch.infer.load import Loaded, open_model
from bigbatch.infer.predict import predict_rows
from bigbatch.infer.prompts import prompts_of, rows_of_prompts
from bigbatch.infer.sampling import _STREAM, Decoding, noise
from bigbatch.infer.texts import shown_safely, written_texts
from tests.models import tiny_folder, tiny_pair, tiny_tokenizer

PROMPTS = ["the flight was", "a", "good crew never again", "my bag lost the flight was very late and no help"]
CAUSAL = ("gpt2", "llama", "mistral")
"""Learned positions, turning ones, a window that is shorter than the prompts."""
WAYS = {
    "greedy": {"max_tokens": 10},
    "drawn": {"max_tokens": 10, "temperature": 1.2, "top_k": 20, "top_p": 0.9, "seed": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def find(family):
        if family not in made:
            made[family] = tiny_folder(tmp_path_factory.mktemp(family), family, head="causal")
        return made[family]

    return find


@pytest.fixture(scope="module")
def model(folder):
    return lambda family="gpt2": open_model(folder(family))


def texts_of(opened: Loaded, prompts, **how) -> dict[int, texts.Text]:
    found = prompts_of(rows_of_prompts(prompts, opened), opened)
    return {prompt.number: text for prompt, text in written_texts(opened, found, Decoding(**how))}


@pytest.mark.parametrize("family", CAUSAL)
def test_the_likeliest_tokens_are_those_that_transformers_finds_of_the_prompt_alone(family, model):
    opened = model(family)
    found = texts_of(opened, PROMPTS, max_tokens=10)
    ends = texts._causal_marks(opened).ends
    for number, prompt in enumerate(PROMPTS):
        ids = opened.tokenizer(prompt)["input_ids"][:-1]  # the mark that ends a text is not continued
        alone = opened.module.generate(
            torch.tensor([ids]), max_new_tokens=10, do_sample=False, eos_token_id=list(ends)
        )
        new = [token for token in alone[0, len(ids) :].tolist() if token not in ends]
        assert found[number].text.split() == opened.tokenizer.decode(new, skip_special_tokens=True).split()
        assert (found[number].end, found[number].tokens) == ("length" if len(new) == 10 else "stop", len(new))


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("way", WAYS)
def test_a_text_does_not_depend_on_those_beside_it(family, way, model):
    opened = model(family)
    together, apart = (
        texts_of(replace(opened, micro_tokens=tokens), PROMPTS, **WAYS[way]) for tokens in (4096, 1)
    )
    assert together == apart and len({text.text for text in together.values()}) > 2
    if way == "drawn":
        assert texts_of(opened, PROMPTS, **{**WAYS[way], "seed": 4}) != together


def test_noise_is_arithmetic_and_draws_what_the_scores_say():
    seeds = mixed_with(mixed_with(np.full(2, mixed(5, _STREAM), np.uint64), np.array([3, 9])), np.full(1, 2))
    fractions = (splitmix64(int(seeds[1]), 0, 50) >> np.uint64(11)).astype(float) * 2.0**-53 + 2.0**-54
    found = noise(5, np.array([3, 9]), 2, 50, torch.device("cpu"))
    np.testing.assert_allclose(found[1], -np.log(-np.log(fractions)), rtol=0, atol=1e-12)
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = (noise(0, np.arange(20_000), 7, 4, torch.device("cpu")) + torch.tensor(shares).log()).argmax(1)
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, shares, atol=4 * 0.5 / np.sqrt(20_000))


def test_a_text_ends_in_front_of_a_stop_text_and_comes_piece_by_piece(model):
    opened = model()
    whole = texts_of(opened, PROMPTS[:1], **WAYS["drawn"])[0]
    words = whole.text.split(" ")
    stop = f"{words[2]} {words[3]}"
    cut = texts_of(opened, PROMPTS[:1], **WAYS["drawn"], stop=("never there", stop))[0]
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.end == "stop"
    assert (
        stop in opened.tokenizer.decode(opened.tokenizer(whole.text)["input_ids"])
        and cut.tokens <= whole.tokens
    )
    pieces: list[str] = []
    [prompt] = prompts_of(rows_of_prompts(PROMPTS[0], opened), opened)
    [(_, same)] = written_texts(opened, [prompt], Decoding(**WAYS["drawn"], stop=(stop,)), said=pieces.append)
    assert same == cut and "".join(pieces) == cut.text and len(pieces) > 1
    assert shown_safely("so\nUs", ["\nUser:"]) == 2 and shown_safely("caf\ufffd", []) == 3


def test_an_encoder_decoder_writes_from_sources(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    tiny_pair("bart", vocab_size=len(tokenizer) + 60).save_pretrained(tmp_path)
    found = bigbatch.generate(tmp_path, ["the flight", "my bag was lost again"], max_tokens=7)
    assert [each["source"] for each in found] == ["the flight", "my bag was lost again"]
    assert {*found[0]} == {"source", "text", "end", "tokens"}
    opened = open_model(tmp_path)
    for way in ({"temperature": 1.0}, {"beams": 3}):
        assert texts_of(opened, "the flight", max_tokens=7, **way)[0].text != found[0]["text"]
    predicted = predict_rows(opened.forward, opened.task, opened.tokenizer, ["the flight"])
    assert next(predicted) == {"text": texts_of(opened, "the flight")[0].text}


def test_a_file_is_written_in_order_goes_on_after_an_interruption_and_replaces_nothing(
    folder, tmp_path, monkeypatch
):
    place, source = folder("gpt2"), tmp_path / "prompts.jsonl"
    rows = [{"prompt": PROMPTS[row % 4], "id": f"r{row}", "topic": row} for row in range(9)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    ways = {"keep": ["topic"], "say": said.append, "show": said.append, **WAYS["drawn"]}

    def command(name, **changed):
        answers.generate_command(place, source, tmp_path / name, **{**ways, **changed})
        return (tmp_path / name).read_text()

    monkeypatch.setattr(texts, "BATCH", 0)  # each text in a batch of its own
    whole = command("whole.jsonl")
    records = [json.loads(line) for line in whole.splitlines()]
    assert [(each["id"], each["topic"], each["prompt"]) for each in records] == [
        (row["id"], row["topic"], row["prompt"]) for row in rows
    ]
    first, batches = texts._Writer._batch, []

    def interrupted(self, *given):
        batches.append(given)
        if len(batches) == 5:
            raise KeyboardInterrupt
        return first(self, *given)

    monkeypatch.setattr(texts._Writer, "_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command("out.jsonl")
    partial = tmp_path / "out.jsonl.partial"
    assert "4 of 9" in said[-1] and not (tmp_path / "out.jsonl").exists()
    with pytest.raises(UsageError, match="another way of writing: remove it"):
        command("out.jsonl", seed=9)
    partial.write_bytes(partial.read_bytes() + b'{"row": 7, "rec')  # as a kill leaves it
    batches.extend([()] * 5)
    assert command("out.jsonl") == whole and len(batches) == 10 + 5 and not partial.exists()
    with pytest.raises(UsageError, match="exists and is not overwritten"):
        command("out.jsonl")


def test_messages_go_through_the_chat_template(folder, tmp_path):
    opened = open_model(folder("gpt2"))
    messages = [{"role": "user", "content": "the flight"}]
    with pytest.raises(UsageError, match="no chat template"):
        prompts_of(rows_of_prompts(messages, opened), opened)
    opened.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'judge' %}{{ raise_exception('no judges') }}{% endif %}"
        "{{ m.role[:0] + m.content }}{% endfor %}{% if add_generation_prompt %} crew{% endif %}"
    )
    source = tmp_path / "talk.jsonl"
    source.write_text(json.dumps({"messages": messages}) + "\n" + json.dumps({"prompt": "the flight"}) + "\n")
    talk, plain = prompts_of(rows_of_prompts(source, opened), opened)
    expected = opened.tokenizer("the flight crew", add_special_tokens=False)["input_ids"]
    assert talk.sample.ids.tolist() == expected and talk.told == {"messages": messages}
    assert plain.sample.ids.tolist() == opened.tokenizer("the flight")["input_ids"][:-1]
    [said] = prompts_of(rows_of_prompts("the flight", opened), opened, chat=True)
    assert said.sample.ids.tolist() == expected
    for wrong, what in (
        ([{"messages": "hello"}], "row 1: messages: found 'hello'; expected"),
        ([{"messages": [{"role": "judge", "content": "x"}]}], "row 1: messages: .*no judges"),
    ):
        with pytest.raises(DataError, match=what):
            prompts_of(rows_of_prompts(wrong, opened), opened)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            '{"prompt": "a"}\n{"prompt": "' + "the " * 70 + '"}\n',
            r"p.jsonl:2: 71 tokens, and .* positions for 64",
        ),
        ('{"text": "a", "prompt": null}\n', "p.jsonl:1: neither prompt nor messages"),
        ('{"other": "a"}\n', "no column prompt or messages; there are: other"),
        ('{"input_ids": ["x"]}\n', "p.jsonl:1: input_ids"),
        ('{"input_ids": [2, 4000]}\n', "p.jsonl:1: token id 4000, but the model's embedding has"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_its_place(content, what, model, tmp_path):
    source = tmp_path / "p.jsonl"
    source.write_text(content)
    opened = model()
    with pytest.raises(DataError, match=what):
        prompts_of(rows_of_prompts(source, opened), opened)


def test_what_nobody_can_write_is_refused_in_one_sentence(tmp_path, model):
    with pytest.raises(UsageError, match="this model \\(text classifier\\) writes no text"):
        bigbatch.generate(tiny_folder(tmp_path), "a")
    for wrong, what in (
        ({"temperature": -1}, "temperature: found -1; expected a number from 0"),
        ({"temperature": 1, "beams": 2}, "one draws, the other searches"),
        ({"top_p": 0.9}, "give a temperature too"),
        ({"tempature": 1}, "found tempature; it takes max_tokens, temperature"),
    ):
        with pytest.raises(UsageError, match=what):
            bigbatch.generate(tmp_path, "a", **wrong)
    opened = model()
    opened.tokenizer._tokenizer.post_processor = None  # no mark in front of a text
    with pytest.raises(DataError, match="row 1: an empty prompt"):
        prompts_of(rows_of_prompts("", opened), opened)

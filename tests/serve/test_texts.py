from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest

import bigbatch
from tests.chats import chat_model, chat_tokenizer
from tests.models import tiny_folder
from tests.serve.conftest import serving, told

SAID = [{"role": "user", "content": "the crew"}]


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "talk"
    chat_model().save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(writer):
    with serving(writer, new_tokens=24) as found:
        yield found


def events(response):
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_texts_are_those_of_generate_whoever_is_beside_them(texts, writer):
    how = {"temperature": 1.0, "seed": 5, "max_tokens": 12}
    prompts = [["the flight was", "a"], ["my bag"], ["late", "never again", "ok"]]

    async def ask(client):
        asked = (client.post("/generate", json={"prompts": each, **how}) for each in prompts)
        return await asyncio.gather(*asked)

    for each, answer in zip(prompts, texts.run(ask), strict=True):
        wanted = bigbatch.generate(writer, each, device="cpu", **how)
        assert answer.json()["texts"] == [
            {name: text[name] for name in ("text", "end", "tokens")} for text in wanted
        ]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_adds_up_to_the_whole_answer(texts, path):
    chat = "chat" in path
    body = {
        **({"messages": SAID} if chat else {"prompt": ["the crew", "late"]}),
        **{"temperature": 1, "seed": 3, "max_tokens": 16, "n": 2},
    }
    whole = texts.post(path, body).json()
    ways = {"stream": True, "stream_options": {"include_usage": True}}
    found = events(texts.post(path, {**body, **ways}))
    assert len(whole["choices"]) == (2 if chat else 4) and whole["usage"]["completion_tokens"] > 0
    for choice in whole["choices"]:
        own = [
            each
            for event in found
            for each in event["choices"]
            if each["index"] == choice["index"]
        ]  # fmt: skip
        pieces = [(each["delta"].get("content") if chat else each["text"]) or "" for each in own]
        assert "".join(pieces) == (choice["message"]["content"] if chat else choice["text"])
        assert own[-1]["finish_reason"] == choice["finish_reason"] and len(pieces) > 2
    assert found[-1]["usage"] == whole["usage"]


def test_without_a_seed_every_request_draws_anew(texts):
    body = {"prompt": "the crew", "max_tokens": 16}
    found = {texts.post("/v1/completions", body).json()["choices"][0]["text"] for _ in range(4)}
    assert len(found) > 1


def test_a_stop_text_ends_a_text(texts):
    body = {"prompt": "the crew", "max_tokens": 24, "temperature": 0}
    whole = texts.post("/v1/completions", body).json()["choices"][0]["text"]
    stop = whole[5:7]
    found = texts.post("/v1/completions", {**body, "stop": stop}).json()["choices"][0]
    assert found["text"] == whole[: whole.find(stop)] and found["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "body, what",
    [
        ({"max_tokens": 10**9}, "max_tokens: found 1000000000; expected at most 24"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": "NaN"}, "top_p"),
        ({"n": 1000}, "n: "),
        ({"stop": [""]}, "stop"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"prompt": "the " * 400}, "positions for"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_stream_begins(texts, body, what):
    for stream in (False, True):
        found = texts.post("/v1/completions", {"prompt": "a", "stream": stream, **body})
        assert found.status_code == 422 and what in told(found), found.text


def test_embeddings_and_ranks(tmp_path):
    folder = tiny_folder(tmp_path / "near", head="masked")
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"type": f"sentence_transformers.models.{name}"}
                for name in ("Transformer", "Pooling", "Normalize")
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    rows = [{"query": "the flight"}, {"document": "late crew"}, {"document": "the flight was great"}]
    query, *documents = [row["embedding"] for row in bigbatch.predict(folder, rows, device="cpu")]
    with serving(folder) as server:
        found = server.post("/embed", {"texts": ["the flight", " "]}).json()["embeddings"]
        assert found[1] is None and np.allclose(found[0], query, atol=1e-6)
        short = server.post("/embed", {"texts": ["the flight"], "dimension": 4}).json()["embeddings"][0]
        assert len(short) == 4 and np.isclose(np.linalg.norm(short), 1)
        assert server.post("/embed", {"texts": ["a"], "dimension": 9999}).status_code == 422
        ranked = server.post(
            "/rank", {"query": "the flight", "documents": ["late crew", "the flight was great"]}
        )
        scores = [float(np.dot(query, each)) for each in documents]
        results = ranked.json()["results"]
        assert [each["index"] for each in results] == list(np.argsort(scores)[::-1])
        assert np.allclose([each["score"] for each in results], sorted(scores, reverse=True), atol=1e-6)
        plain = server.post("/v1/embeddings", {"input": "the flight"}).json()["data"][0]["embedding"]
        coded = server.post("/v1/embeddings", {"input": "the flight", "encoding_format": "base64"}).json()
        bits = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
        assert np.array_equal(bits, np.asarray(plain, np.float32))

"""Strangers, crowds and hostile bodies: an answer of 4xx or 503, within bounded time and memory."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest

from bigbatch.errors import UsageError
from bigbatch.serve import engine as engines
from bigbatch.serve.guard import Access, digest_of
from bigbatch.serve.server import Serving, access_of
from tests.serve.conftest import Held, serving, told, until

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body, status, what",
    [
        ("{", 400, "Invalid JSON"),
        ('{"rows":' + "[" * 100_000, 400, "recursion"),
        ('{"rows":[{"text":NaN}]}', 422, "rows 1: found nan"),
        ('{"rows":[{"text":"a","x":{"y":[1e999]}}]}', 422, "rows 1: found inf"),
        ('{"rows":["\\ud800"]}', 400, "Invalid JSON"),
        (b'{"rows":["\xff"]}', 400, "Invalid JSON"),
        ('{"rows":[{"text":' + "9" * 100_000 + "}]}", 400, "Invalid JSON"),
        ({"rows": "a text"}, 422, "rows: "),
        ({"rows": []}, 422, "rows: "),
        ({"rows": [5]}, 422, "rows.0: "),
        ({"rows": [{"text": {"a": 1}}]}, 422, "row 1"),
        ({"rows": [{}]}, 422, "row 1"),
        ({"rows": ["a"] * 1_000_000}, 413, "larger than"),
        ({"rows": ["a"] * 1_000}, 422, "at most 256"),
        ({"rows": ["a" * 200_000]}, 422, "at most 100000"),
        ({"rows": ["a"], "rwos": 1}, 422, "rwos"),
        ({"rows": ["a"], "model": "other"}, 404, "there is flights"),
        ([1], 422, ""),
        ('{"rows": ["a"], "rows": ["b"]}', 422, "'rows': this key is there twice"),
        ('{"rows": [{"text": "a", "text": "b"}]}', 422, "'text': this key is there twice"),
        ('{"rows": [{"text": "a", "x": ' + '{"y": ' * 150 + "1" + "}" * 150 + "}]}", 200, ""),
        ("", 400, "Invalid JSON"),
    ],
)
def test_hostile_bodies(server, body, status, what):
    found = server.post("/predict", body)
    assert found.status_code == status and (status == 200 or what in told(found)), found.text
    assert len(found.text) < 2000


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens", "top_k", "seed"])
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", '"NaN"', "true"])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_parameters_that_are_no_numbers(server, path, name, literal):
    """Refused as they are read, before the model is looked at: this one writes no texts, which would be 404."""
    own = {"/generate": '"prompts":["a"]', "/v1/completions": '"prompt":"a"'}
    body = "{" + own.get(path, '"messages":[{"role":"user","content":"a"}]') + f',"{name}":{literal}' + "}"
    found = server.post(path, body)
    assert found.status_code == 422 and f"{name}: " in told(found) and len(found.text) < 2000, found.text
    assert server.post(path, body.replace(literal, "1")).status_code == 404


def test_a_million_texts_are_refused_in_bounded_memory(two_labels):
    body = json.dumps({"rows": ["a"] * 1_000_000}).encode()
    with serving(two_labels, body_bytes=8 << 20) as server:
        tracemalloc.start()
        found = server.post("/predict", body)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found.status_code == 422 and peak < 40 * len(body)


def test_a_body_of_a_gigabyte_is_not_read(server):
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(1 << 14):
            sent += 1 << 16
            yield b" " * (1 << 16)

    found = server.run(lambda client: client.post("/predict", content=endless(), headers=JSON))
    assert found.status_code == 413 and sent <= server.limits.body_bytes + (2 << 16)
    announced = server.post("/predict", "{}", **{"content-length": str(1 << 30)})
    assert announced.status_code == 413


def test_a_slow_body_is_left(two_labels):
    with serving(two_labels, body_seconds=0.05) as server:

        async def dripping():
            yield b"{"
            await asyncio.sleep(30)
            yield b"}"

        found = server.run(lambda client: client.post("/predict", content=dripping(), headers=JSON))
    assert found.status_code == 408


def test_other_types_and_methods_and_hosts(server):
    assert server.post("/predict", "{}", **{"content-type": "text/plain"}).status_code == 415
    assert server.get("/predict").status_code == 405
    assert server.get("/nothing").status_code == 404
    assert server.get("/health", host="evil.example").status_code == 403
    assert server.get("/health", host="localhost").status_code == 200
    assert server.get("/health", host="[::1]:8000").status_code == 200


def test_tokens(two_labels):
    access = Access(tokens=(digest_of("a" * 16), digest_of("b" * 16)))
    with serving(two_labels, access=access) as server:
        assert server.get("/health").status_code == server.get("/").status_code == 200
        for path in ("/metrics", "/openapi.json", "/v1/models"):
            assert server.get(path).status_code == 401
            assert server.get(path, authorization="Bearer " + "b" * 16).status_code == 200
        for wrong in ("Bearer " + "c" * 16, "Basic " + "a" * 16, "Bearer", "Bearer " + "a" * 15):
            found = server.post("/predict", {"rows": ["a"]}, authorization=wrong)
            assert found.status_code == 401 and found.headers["www-authenticate"] == "Bearer"


def test_other_addresses_need_a_token_and_a_file_of_ones_own(tmp_path):
    with pytest.raises(UsageError, match="need a token"):
        access_of(Serving(models=["x"], host="0.0.0.0"))
    file = tmp_path / "token"
    for content, what in (("", "empty"), ("short\n", "token 1 is shorter")):
        file.write_text(content)
        with pytest.raises(UsageError, match=what):
            access_of(Serving(models=["x"], host="0.0.0.0", token_file=file))
    file.write_text("a" * 32)
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        access_of(Serving(models=["x"], host="0.0.0.0", token_file=file))
    file.chmod(0o600)
    assert access_of(Serving(models=["x"], host="0.0.0.0", token_file=file)).tokens == (digest_of("a" * 32),)
    assert access_of(Serving(models=["x"])).only_loopback


def test_a_full_queue_says_when_to_come_back(two_labels, monkeypatch):
    held = Held(monkeypatch)
    with serving(two_labels, queue_rows=3) as server:
        queue = server.models.engine(None).queue

        async def ask(client):
            first = await held.busy(client)
            second = asyncio.ensure_future(client.post("/predict", json={"rows": ["b"] * 3}))
            await until(lambda: queue.rows == 3)
            full = await client.post("/predict", json={"rows": ["c"]})
            held.go.set()
            return full, await first, await second

        full, first, second = server.run(ask)
    assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
    assert first.status_code == second.status_code == 200


def test_who_is_gone_and_who_is_late_costs_no_work(two_labels, monkeypatch):
    held = Held(monkeypatch)
    with serving(two_labels, deadline_seconds=0.3) as server:
        queue = server.models.engine(None).queue

        async def ask(client):
            first = await held.busy(client)
            gone = asyncio.ensure_future(client.post("/predict", json={"rows": ["gone"]}))
            await until(lambda: queue.rows == 1)
            gone.cancel()
            await until(lambda: queue.rows == 0)
            late = await client.post("/predict", json={"rows": ["late"]})
            held.go.set()
            return late, await first

        late, first = server.run(ask)
        assert late.status_code == first.status_code == 504 and "within 0.3 s" in told(late)
        assert server.post("/predict", {"rows": ["after"]}).status_code == 200
    assert held.seen == [[["first"]], [["after"]]]


def test_what_fails_in_a_batch_fails_alone(two_labels, monkeypatch):
    run = engines.predicted

    def failing(opened, jobs):
        if any("boom" in job.work.rows for job in jobs):
            raise RuntimeError("boom of the inside")
        run(opened, jobs)

    monkeypatch.setattr(engines, "predicted", failing)
    with serving(two_labels, wait_seconds=0.1) as server:

        async def ask(client):
            rows = (["a"], ["boom"], ["b"])
            return await asyncio.gather(*(client.post("/predict", json={"rows": each}) for each in rows))

        found = server.run(ask)
    assert [each.status_code for each in found] == [200, 500, 200]
    assert "inside" not in found[1].text and any("boom of the inside" in line for line in server.said)

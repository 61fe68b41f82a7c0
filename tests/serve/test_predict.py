from __future__ import annotations

import asyncio

import pytest

import bigbatch
from bigbatch.infer.predict import predict_rows
from tests.models import WORDS
from tests.serve.conftest import serving, told

ROWS = [" ".join(WORDS[(row + at) % len(WORDS)] for at in range(1 + 7 * row % 30)) for row in range(100)]


def test_a_request_has_the_bits_of_predict(server, two_labels):
    found = server.post("/predict", {"rows": ROWS})
    assert found.status_code == 200 and found.json()["model"] == "flights"
    assert found.json()["predictions"] == bigbatch.predict(two_labels, ROWS, device="cpu")


def test_requests_that_run_together_have_the_bits_of_their_pack(two_labels, monkeypatch):
    """Whatever requests a batch is made of, its rows have the bits of `predict` on just these rows, in one pack."""
    from bigbatch.serve import engine

    batches = []
    run = engine.predicted

    def noted(opened, jobs):
        batches.append([list(job.work.rows) for job in jobs])
        run(opened, jobs)

    monkeypatch.setattr(engine, "predicted", noted)
    with serving(two_labels, wait_seconds=0.1) as server:
        parts = [ROWS[:3], ROWS[3:4], ROWS[4:30], ROWS[30:31]]

        async def ask(client):
            return await asyncio.gather(*(client.post("/predict", json={"rows": part}) for part in parts))

        answers = [answer.json()["predictions"] for answer in server.run(ask)]
        opened = server.models.engine(None).opened
        assert len(batches) == 1, "they ran one by one"
        together = [row for part in batches[0] for row in part]
        whole = list(
            predict_rows(
                opened.forward, opened.task, opened.tokenizer, together, micro_tokens=opened.micro_tokens
            )
        )
        assert {len(part): answer for part, answer in zip(parts, answers, strict=True) if len(part) > 1} == {
            len(part): whole[together.index(part[0]) : together.index(part[0]) + len(part)]
            for part in parts
            if len(part) > 1
        }
        assert [answers[1][0], answers[3][0]] == [whole[together.index(parts[at][0])] for at in (1, 3)]


def test_what_is_wrong_with_one_request_is_not_the_others(server):
    bodies = [{"rows": ["a flight"]}, {"rows": [{"pair": "no text"}]}, {"rows": [{"text": "late", "id": 7}]}]

    async def ask(client):
        return await asyncio.gather(*(client.post("/predict", json=body) for body in bodies))

    first, wrong, last = server.run(ask)
    assert (first.status_code, wrong.status_code, last.status_code) == (200, 422, 200)
    assert "row 1: data.columns.text" in told(wrong)
    assert last.json()["predictions"][0]["id"] == 7


def test_rows_without_tokens_and_pairs(server, two_labels):
    rows = ["", {"text": "late", "pair": "again"}, "bad"]
    found = server.post("/predict", {"rows": rows}).json()["predictions"]
    wanted = bigbatch.predict(two_labels, rows, device="cpu")
    assert [row["label"] for row in found] == [row["label"] for row in wanted]
    assert found[1]["probability"] == pytest.approx(wanted[1]["probability"], abs=1e-6)


def test_paths_of_other_tasks_say_which_task_gives_them(server):
    asked = {
        "/embed": {"texts": ["a"]},
        "/rank": {"query": "a", "documents": ["b"]},
        "/generate": {"prompts": ["a"]},
        "/v1/embeddings": {"input": "a"},
        "/v1/completions": {"prompt": "a"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    }
    for path, body in asked.items():
        found = server.post(path, body)
        assert found.status_code == 404 and path in told(found) and "task" in told(found), path


def test_what_watches(server):
    assert server.get("/health").json() == {"status": "ok"}
    ready = server.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["models"]["flights"] == {
        "task": "classify", "way": "packed", "waiting": 0, "paths": ["/predict"],
    }  # fmt: skip
    server.post("/predict", {"rows": ["late"]})
    lines = server.get("/metrics").text
    assert 'bigbatch_requests_total{path="/predict",status="200"}' in lines
    assert 'bigbatch_batch_rows_count{model="flights"}' in lines
    assert server.get("/v1/models").json()["data"][0]["id"] == "flights"


def test_what_describes_it(server):
    page = server.get("/")
    assert "//" not in page.text.replace("http://www", "") and "https:" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    described = server.get("/openapi.json").json()
    for path in ("/predict", "/embed", "/rank", "/generate", "/v1/chat/completions"):
        body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert body["schema"]["$ref"].rpartition("/")[2] in described["components"]["schemas"]
        assert body["example"]
